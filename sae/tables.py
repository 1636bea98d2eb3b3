"""Arrow and Parquet tables that a stage left: proved by the digest that its record holds, then by their schema."""

from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa

from sae.errors import InputError
from sae.records import open_proved
from sae.storage import Place
from sae.storage.parquet_file import read_parquet


def ipc_bytes(table: pa.Table) -> pa.Buffer:
    """A table as one Arrow IPC file."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def arrow_table(place: Place, key: str, digests: Mapping[str, str], said_by: str, schema: pa.Schema) -> pa.Table:
    """Read an Arrow IPC file whole.

    Args:
        place: where it lies.
        key: its name there.
        digests: SHA-256 of the tables of a record.
        said_by: URL of that record, for messages.
        schema: expected columns.

    Raises:
        CorruptObjectError: it was changed or lost after it was written.
        InputError: it is no such file, or has other columns.
    """
    buffer = open_proved(place, key, digests.get(key), said_by)
    return _with_schema(_read(lambda: pa.ipc.open_file(buffer).read_all(), place.path(key)), schema, place.path(key))


def parquet_table(
    place: Place, key: str, digests: Mapping[str, str], said_by: str, schema: pa.Schema, features: Sequence[int] | None = None
) -> pa.Table:
    """Read a Parquet file, or the rows of some features; arguments and errors as of `arrow_table`."""
    buffer = open_proved(place, key, digests.get(key), said_by)
    return _with_schema(parquet_rows(buffer, place.path(key), features=features), schema, place.path(key)).combine_chunks()


def parquet_rows(data: pa.Buffer, where: str, columns: list[str] | None = None, features: Sequence[int] | None = None) -> pa.Table:
    """Read a Parquet file that was proved, or some of its columns, or the rows of some features.

    Raises:
        InputError: it is no such file, or lacks a column.
    """
    return _read(lambda: read_parquet(data, columns, features), where)


def _read(read: Callable[[], pa.Table], where: str) -> pa.Table:
    try:
        table = read()
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{where} is not a whole table ({' '.join(str(error).split())[:200]}). Run the stage that writes it again") from None
    return table


def _with_schema(table: pa.Table, schema: pa.Schema, where: str) -> pa.Table:
    if not table.schema.equals(schema):
        raise InputError(
            f"{where} does not have the columns of this version: {_difference(table.schema, schema)}. Run the stage that writes it again"
        )
    return table


def _difference(found: pa.Schema, expected: pa.Schema) -> str:
    for field in expected:
        if field.name not in found.names:
            return f"column {field.name!r} is missing"
        if found.field(field.name).type != field.type:
            return f"column {field.name!r} is {found.field(field.name).type!s:.60}, expected {field.type!s:.60}"
    return f"columns {', '.join(found.names)[:200]}, expected {', '.join(expected.names)[:200]}"
