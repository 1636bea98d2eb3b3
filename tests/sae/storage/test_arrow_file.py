"""An Arrow file gives the values that Arrow's own reader gives, or is refused with the reason."""

import contextlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae.storage import ArrowFile, ArrowFileError

SCHEMA = pa.schema(
    [
        pa.field("id", pa.uint64(), nullable=False),
        pa.field("pairs", pa.list_(pa.field("item", pa.float16(), nullable=False), 2), metadata={"unit": "none"}),
        pa.field("signed", pa.int32()),
        pa.field("real", pa.float64()),
    ],
    metadata={"kind": "test"},
)
BATCH_ROWS = 50


def written(rows: int, compression: str | None = None) -> pa.Buffer:
    draw = np.random.default_rng(rows)
    columns = [
        pa.array(np.arange(rows, dtype=np.uint64)),
        pa.FixedSizeListArray.from_arrays(pa.array(draw.integers(0, 3, 2 * rows).astype(np.float16)), type=SCHEMA.field("pairs").type),
        pa.array(draw.integers(-9, 9, rows).astype(np.int32)),
        pa.array(draw.random(rows)),
    ]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, SCHEMA, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(pa.table(columns, schema=SCHEMA), max_chunksize=BATCH_ROWS)
    return sink.getvalue()


@pytest.mark.parametrize("compression", [None, "zstd"])
@pytest.mark.parametrize("rows", [0, 1, BATCH_ROWS, BATCH_ROWS + 1, 333])
def test_it_is_the_table_that_arrow_reads(rows, compression):
    data = written(rows, compression)
    file = ArrowFile(data, SCHEMA, BATCH_ROWS, compressed=compression is not None)
    assert file.num_rows == rows
    assert file.num_batches == -(-rows // BATCH_ROWS)
    assert file.table().equals(pa.ipc.open_file(data).read_all(), check_metadata=True)
    if rows and not compression:
        assert data.address <= file.values(0, 0).buffers()[1].address < data.address + data.size, "a view"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no Arrow file"),
        (b"ARROW1", "no Arrow file"),
        (b"ARROW1\0\0" + bytes(50), "no Arrow file"),
        (b"ARROW1\0\0" + b"\xff\xff\xff\x7f" + b"ARROW1", "footer does not fit"),
        (b"ARROW1\0\0" + b"\xff\xff\xff\xff" + b"ARROW1", "footer does not fit"),
        (b"ARROW1\0\0" + bytes(100) + b"\x40\0\0\0" + b"ARROW1", "metadata is damaged"),
    ],
)
def test_what_is_no_arrow_file_is_refused(data, reason):
    with pytest.raises(ArrowFileError, match=reason):
        ArrowFile(pa.py_buffer(data), SCHEMA, BATCH_ROWS)


def test_another_schema_is_refused_with_both():
    with pytest.raises(ArrowFileError, match=r"its columns \(id, pairs, signed, real\), byte order or notes are not the expected"):
        ArrowFile(written(3), SCHEMA.remove_metadata(), BATCH_ROWS)
    with pytest.raises(ArrowFileError, match=r"its columns \(id, pairs, signed, real\) are not the expected ones, signed of int64"):
        ArrowFile(written(3), SCHEMA.set(2, pa.field("signed", pa.int64())), BATCH_ROWS)
    with pytest.raises(ArrowFileError, match="do not have 49 rows each"):
        ArrowFile(written(60), SCHEMA, 49)


@pytest.mark.fuzz
@given(st.data(), st.sampled_from([None, "zstd"]))
def test_any_bytes_are_refused_or_hold_as_many_values_as_they_say(data, compression):
    whole = bytearray(written(60, compression))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(whole) - 1))
        by = data.draw(st.binary(min_size=1, max_size=8))
        whole[at : at + len(by)] = by
    with contextlib.suppress(ArrowFileError):
        file = ArrowFile(pa.py_buffer(bytes(whole)), SCHEMA, BATCH_ROWS, compressed=compression is not None)
        file.table().validate(full=True)
