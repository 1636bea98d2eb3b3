"""Arrow files of fixed-width columns, compared with the expected schema before a value is handed out.

Arrow's own reader believes a file's metadata: a record batch that claims a million rows is read beyond the end of its memory, and a negative
length ends the process. Therefore the metadata is read here with bounds (`sae.storage.arrow_metadata`), and every number in it is either the one that
the schema and the number of rows demand, or a place within the file that no other buffer takes. Values are then views of proven spans of
the file; zstd buffers are decoded into exactly the bytes that are expected.

The files are ordinary Arrow IPC files of record batches without nulls and dictionaries, which every Arrow reader takes. Their columns are numbers
or fixed-size lists of numbers.

Reference: https://arrow.apache.org/docs/format/Columnar.html#ipc-file-format.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from sae.storage.arrow_metadata import ArrowFileError, Table, unpack

MAGIC = b"ARROW1"
METADATA_BYTES = 2**20
"""The footer of a shard takes some kilobytes, other metadata less than one."""

_PADDING = 64  # a buffer may be padded to so many bytes
_V5, _RECORD_BATCH, _ZSTD = 4, 3, 1  # of MetadataVersion, MessageHeader and CompressionType
_INT, _FLOAT, _LIST = 2, 3, 16  # of Type
_NOT_COMPRESSED = -1  # instead of a buffer's length: zstd would not have made it smaller


@dataclass(frozen=True)
class _Column:
    kind: pa.DataType
    """Of its numbers."""
    per_row: int
    is_list: bool

    @classmethod
    def of(cls, field: pa.Field) -> "_Column":
        is_list = pa.types.is_fixed_size_list(field.type)
        return cls(field.type.value_type, field.type.list_size, True) if is_list else cls(field.type, 1, False)

    def bytes(self, rows: int) -> int:
        return int(rows * self.per_row * self.kind.bit_width // 8)


@dataclass(frozen=True)
class _Batch:
    rows: int
    spans: tuple[tuple[int, int], ...]
    """`(start, stop)` of the values of each column within the file; compressed ones as they are stored."""


class ArrowFile:
    """An Arrow file whose metadata is proven; may be used from several threads.

    Args:
        buffer: the whole file.
        schema: of columns of numbers or fixed-size lists of numbers.
        batch_rows: rows of every record batch; the last one may hold fewer.
        compressed: whether its buffers are zstd frames.

    Raises:
        ArrowFileError: it is no such file; the message says why, without its name.
    """

    def __init__(self, buffer: pa.Buffer, schema: pa.Schema, batch_rows: int, compressed: bool = False) -> None:
        self.schema, self._buffer, self._compressed = schema, buffer, compressed
        self._columns = [_Column.of(field) for field in schema]
        data = memoryview(buffer)
        footer, end = _read_footer(data)
        _compare_schemas(footer.table(1), schema)
        if footer.structs(2, "<qi4xq"):
            raise ArrowFileError("it has dictionaries")
        self._batches = list(self._read_batches(data[:end], footer))
        rows = [batch.rows for batch in self._batches]
        if any(count != batch_rows for count in rows[:-1]) or any(not 0 < count <= batch_rows for count in rows):
            raise ArrowFileError(f"its record batches do not have {batch_rows:,} rows each")
        self.num_rows = sum(rows)

    @property
    def num_batches(self) -> int:
        """Record batches."""
        return len(self._batches)

    def values(self, column: int, batch: int) -> pa.Array:
        """The numbers of a column in a record batch, those of lists one list after the other.

        Raises:
            ArrowFileError: they cannot be decoded.
        """
        start, stop = self._batches[batch].spans[column]
        data, rows, form = self._buffer.slice(start, stop - start), self._batches[batch].rows, self._columns[column]
        values = self._decoded(data) if self._compressed else data
        return pa.Array.from_buffers(form.kind, rows * form.per_row, [None, values])

    def table(self) -> pa.Table:
        """All columns of all record batches."""
        return pa.Table.from_batches([self._record_batch(batch) for batch in range(self.num_batches)], self.schema)

    def _record_batch(self, batch: int) -> pa.RecordBatch:
        columns = []
        for number, (form, field) in enumerate(zip(self._columns, self.schema, strict=True)):
            values = self.values(number, batch)
            columns.append(pa.FixedSizeListArray.from_arrays(values, type=field.type) if form.is_list else values)
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)

    def _decoded(self, data: pa.Buffer) -> pa.Buffer:
        [size] = unpack("<q", memoryview(data), 0)
        if size == _NOT_COMPRESSED:
            return data.slice(8)
        try:
            return pa.decompress(data.slice(8), decompressed_size=size, codec="zstd")  # refuses what gives more or fewer bytes
        except OSError as error:
            raise ArrowFileError(f"it cannot be decoded ({error})") from None

    def _read_batches(self, data: memoryview, footer: Table) -> Iterator[_Batch]:
        free = len(MAGIC)
        for start, metadata_bytes, body_bytes in footer.structs(3, "<qi4xq"):
            if start < free or not 8 <= metadata_bytes <= METADATA_BYTES or body_bytes < 0 or start + metadata_bytes + body_bytes > len(data):
                raise ArrowFileError("its record batches reach beyond each other or the file")
            body = start + metadata_bytes
            free = body + body_bytes
            yield self._read_batch(data[body:free], body, data[start:body])

    def _read_batch(self, body: memoryview, offset: int, framed: memoryview) -> _Batch:
        marker, size = unpack("<Ii", framed, 0)
        if marker != 0xFFFFFFFF or not 0 <= size <= len(framed) - 8:
            raise ArrowFileError("a record batch is not where its footer says")
        message = Table(framed[8 : 8 + size])
        batch = message.table(2)
        described = message.number(0, "<h"), message.number(1, "<B"), message.number(3, "<q")
        if described != (_V5, _RECORD_BATCH, len(body)) or batch is None:
            raise ArrowFileError("a record batch is not what its footer says")
        compression = batch.table(3)
        if (compression is not None) != self._compressed or (compression is not None and compression.number(0, "<b") != _ZSTD):
            raise ArrowFileError(f"its buffers are not {'zstd frames' if self._compressed else 'uncompressed'}")
        rows = batch.number(0, "<q")
        lengths = [count for form in self._columns for count in ((rows, rows * form.per_row) if form.is_list else (rows,))]
        if batch.structs(1, "<qq") != [(count, 0) for count in lengths]:
            raise ArrowFileError(f"a record batch of {rows:,} rows has columns of other lengths, or nulls")
        return _Batch(rows, tuple((offset + start, offset + stop) for start, stop in self._spans(batch, body, rows)))

    def _spans(self, batch: Table, body: memoryview, rows: int) -> Iterator[tuple[int, int]]:
        """Spans of the columns' values within the body. Before them, each column has a bitmap of nulls, a list also one of its own; all are empty."""
        buffers, free = iter(batch.structs(2, "<qq")), 0
        for form in self._columns:
            bitmaps = [next(buffers, None) for _ in range(2 if form.is_list else 1)]
            values = next(buffers, None)
            if values is None or any(bitmap is None or bitmap[1] for bitmap in bitmaps):
                raise ArrowFileError("a record batch has other buffers than its schema")
            start, length = values
            if start < free or start % 8 or length < 0 or start + length > len(body):
                raise ArrowFileError("its buffers reach beyond each other or the record batch")
            free = start + length
            yield start, start + self._stored_bytes(body[start:free], form.bytes(rows))
        if next(buffers, None) is not None:
            raise ArrowFileError("a record batch has other buffers than its schema")

    def _stored_bytes(self, stored: memoryview, size: int) -> int:
        """Bytes of `stored` that hold the `size` bytes of a column's values."""
        found, most = len(stored), size + _PADDING - 1
        if self._compressed:
            [stated] = unpack("<q", stored, 0)
            found, most = (len(stored) - 8, size) if stated == _NOT_COMPRESSED else (stated, most)
        if not size <= found <= most:
            raise ArrowFileError(f"a column has {found:,} bytes of values, expected {size:,}")
        return len(stored) if self._compressed else size


def _read_footer(data: memoryview) -> tuple[Table, int]:
    """The footer, and where it begins."""
    tail = 4 + len(MAGIC)
    if len(data) < len(MAGIC) + tail or data[: len(MAGIC)] != MAGIC or data[-len(MAGIC) :] != MAGIC:
        raise ArrowFileError("it is no Arrow file")
    [size] = struct.unpack_from("<i", data, len(data) - tail)
    start = len(data) - tail - size
    if not 0 < size <= METADATA_BYTES or start < len(MAGIC):
        raise ArrowFileError("its footer does not fit")
    footer = Table(data[start : start + size])
    if footer.number(0, "<h") != _V5:
        raise ArrowFileError("it is of another version of the Arrow format")
    return footer, start


def _compare_schemas(found: Table | None, expected: pa.Schema) -> None:
    fields = [] if found is None else found.tables(1)
    endianness, metadata = (0, {}) if found is None else (found.number(0, "<h"), _metadata(found, 2))
    described = [_stored_field(field) for field in fields]
    names = ", ".join(field.text(0).decode(errors="replace")[:40] for field in fields[:8])
    differing = next((field for field, stored in zip(expected, described, strict=False) if stored != _described(field)), None)
    if differing is not None:
        raise ArrowFileError(f"its columns ({names}) are not the expected ones, {differing.name} of {differing.type}")
    if endianness or len(described) != len(expected) or metadata != dict(expected.metadata or {}):
        raise ArrowFileError(f"its columns ({names}), byte order or notes are not the expected ones")


def _stored_field(field: Table, nested: bool = False) -> tuple[Any, ...]:
    kind, parameters = field.number(2, "<B"), field.table(3)
    forms: list[tuple[int, str]] = {_INT: [(0, "<i"), (1, "<?")], _FLOAT: [(0, "<h")], _LIST: [(0, "<i")]}.get(kind, [])
    settings = tuple(parameters.number(*form) for form in forms) if parameters else ()
    children = field.tables(5)
    if field.table(4) is not None or (children and nested):
        raise ArrowFileError("its columns are dictionaries, or nested")
    inner = [_stored_field(child, nested=True) for child in children]
    return field.text(0), bool(field.number(1, "<?")), kind, settings, inner, _metadata(field, 6)


def _described(field: pa.Field) -> tuple[Any, ...]:
    kind, name = field.type, field.name.encode()
    if pa.types.is_fixed_size_list(kind):
        return name, field.nullable, _LIST, (kind.list_size,), [_described(kind.value_field)], dict(field.metadata or {})
    if pa.types.is_integer(kind):
        return name, field.nullable, _INT, (kind.bit_width, pa.types.is_signed_integer(kind)), [], dict(field.metadata or {})
    return name, field.nullable, _FLOAT, ({16: 0, 32: 1, 64: 2}[kind.bit_width],), [], dict(field.metadata or {})


def _metadata(table: Table, field: int) -> dict[bytes, bytes]:
    return {pair.text(0): pair.text(1) for pair in table.tables(field)}
