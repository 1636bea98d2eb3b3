"""A Parquet file is opened only if its footer and the declared sizes of its columns are bounded."""

import random
import re
import struct
import subprocess
import sys
import textwrap

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sae.storage.parquet_file import MAX_FOOTER_BYTES, ParquetFileError, open_parquet


def written(table: pa.Table, **options) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **options)
    return sink.getvalue().to_pybytes()


def test_a_file_and_its_content_are_read_alike(tmp_path):
    data = written(pa.table({"text": ["one", None, "three"]}))
    (tmp_path / "a.parquet").write_bytes(data)
    for source in (tmp_path / "a.parquet", pa.py_buffer(data)):
        with open_parquet(source) as file:
            assert file.read().to_pydict() == {"text": ["one", None, "three"]}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "does not end as a Parquet file does"),
        (b"PAR1PAR1", "does not end as a Parquet file does"),
        (b"PAR1" + bytes(40), "does not end as a Parquet file does"),
        (b"PAR1" + struct.pack("<I", 2**32 - 1) + b"PAR1", "its footer has 4,294,967,295 bytes, and the file only 12"),
        (b"PAR1" + bytes(8) + b"PAR1", "."),
    ],
)
def test_what_does_not_end_in_a_footer_is_refused(data, reason, tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(data)
    for source in (path, pa.py_buffer(data)):
        with pytest.raises(ParquetFileError, match=reason):
            open_parquet(source)


def test_a_long_footer_is_refused_before_it_is_parsed():
    """Arrow takes 234 bytes of memory for each byte of a footer of empty column chunks."""
    data = b"PAR1" + bytes(MAX_FOOTER_BYTES + 1) + struct.pack("<I", MAX_FOOTER_BYTES + 1) + b"PAR1"
    with pytest.raises(ParquetFileError, match="its footer has 8,388,609 bytes, at most 8,388,608 are read"):
        open_parquet(pa.py_buffer(data))


def test_a_file_that_expands_beyond_measure_is_refused_before_it_is_decoded():
    bomb = written(pa.table({"text": ["\0" * (80 * 2**20)]}), compression="zstd", use_dictionary=False, write_statistics=False)
    assert len(bomb) < 100_000
    with pytest.raises(ParquetFileError, match="it expands more than 300 times"):
        open_parquet(pa.py_buffer(bomb))


def test_row_groups_that_disagree_with_the_file_are_refused():
    data = bytearray(written(pa.table({"text": ["one"] * 41})))
    rows = bytes([0x16, 82])  # a 64-bit integer of Thrift's compact form: 41
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    at = data.rindex(rows, footer) + 1
    data[at] = 83  # -42
    with pytest.raises(ParquetFileError, match="its row groups do not have 41 rows in all"):
        open_parquet(pa.py_buffer(bytes(data)))


FOREIGN_READER = """
    import contextlib, random, resource, sys
    from pathlib import Path
    from sae.corpus.formats.parquet import parquet_texts
    from sae.errors import InputError

    whole, path, rounds = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2]), int(sys.argv[3])
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    draw, read = random.Random(int(sys.argv[4])), 0
    for turn in range(rounds):
        damaged = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            at = draw.randrange(footer, len(whole)) if draw.random() < 0.7 else draw.randrange(len(whole))
            damaged[at] = draw.choice([0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)])
        path.write_bytes(damaged)
        for field in ("text", "meta.body"):
            with contextlib.suppress(InputError):
                read += sum(1 for _ in parquet_texts(path, field))
    print(read)
"""


@pytest.mark.fuzz
def test_a_damaged_file_never_ends_the_process_that_reads_it(tmp_path, request):
    """In a process of its own, since what would fail is native code; within 6 GiB of address space."""
    bodies = pa.array(["a", None, "long " * 40] * 20)
    table = pa.table({"text": ["one", "two", None] * 20, "n": range(60), "meta": pa.StructArray.from_arrays([bodies], ["body"])})
    pq.write_table(table, tmp_path / "whole.parquet", row_group_size=25, compression="zstd")
    longer = request.config.getoption("hypothesis_profile") == "fuzz"
    rounds, seed = (20_000, random.randrange(2**32)) if longer else (300, 0)
    command = [
        sys.executable,
        "-c",
        textwrap.dedent(FOREIGN_READER),
        tmp_path / "whole.parquet",
        tmp_path / "damaged.parquet",
        str(rounds),
        str(seed),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=1800 if longer else 120, check=False)
    assert ended.returncode == 0, f"seed {seed}: {ended.stderr[-2000:]}"
    assert re.fullmatch(r"\d+\n", ended.stdout)
    assert int(ended.stdout) > rounds, "some damage does no harm"
