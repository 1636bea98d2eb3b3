"""Parquet: one document a row."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from sae.corpus.formats.recognition import shown
from sae.errors import InputError
from sae.storage.expansion import check_expansion
from sae.storage.parquet_file import ParquetFileError, open_parquet

ROWS_AT_ONCE = 1024  # a row is a document of any length


def parquet_texts(path: Path, field: str, setting: str = "corpus.text_field") -> Iterator[tuple[str, str]]:
    """Yield `(path:ROW, text)` of each row, numbered from 0; a null gives an empty text.

    Raises:
        InputError: the file cannot be read, has no such column, or the column holds no strings, or none but nulls.
    """
    where = shown(path)
    column = check_parquet(path, field, setting)
    # Many rows may share one long text: as a dictionary it is held once. Arrow reads no dictionary within a struct, so there one row at a time.
    flat = len(column) == 1
    try:
        size, decoded = path.stat().st_size, 0
        with open_parquet(path, column if flat else ()) as file:
            number, found = 0, False
            for batch in file.iter_batches(ROWS_AT_ONCE if flat else 1, columns=[".".join(column)]):
                values = _inner(batch.column(column[0]), column[1:])
                values.validate(full=True)  # Arrow does not check UTF-8 when it reads
                for value in values:
                    found = found or value.is_valid
                    text = value.as_py() or ""
                    decoded += len(text) + 1
                    check_expansion(decoded, size, where)
                    yield f"{where}:{number}", text
                    number += 1
            if number and not found:
                raise InputError(f"{where} has only nulls in column {field!r}. Set {setting}, or leave the file out")
    except (OSError, EOFError, UnicodeDecodeError, ParquetFileError, pa.ArrowException) as error:
        raise _unreadable(where, error) from None


def check_parquet(path: Path, field: str, setting: str = "corpus.text_field") -> list[str]:
    """Read the schema alone, and return the path of names to the column.

    Raises:
        InputError: as `parquet_texts`, as far as the schema says it.
    """
    try:
        with open_parquet(path) as file:
            schema = file.schema_arrow
    except (OSError, EOFError, ValueError, pa.ArrowException) as error:
        raise _unreadable(shown(path), error) from None
    return _column(schema, field, shown(path), setting)


def _unreadable(where: str, error: Exception) -> InputError:
    return InputError(f"cannot read {where}: {' '.join(str(error).split())[:200] or type(error).__name__}. Copy the file again")


def _column(schema: pa.Schema, field: str, where: str, setting: str) -> list[str]:
    """The path of names to the column; it holds strings."""
    if schema.names.count(field) > 1:
        raise InputError(f"{where} has {schema.names.count(field)} columns of the name {field!r}. Rename all but one")
    column = [field] if field in schema.names else field.split(".")
    kind: pa.DataType = pa.struct(schema)
    for name in column:
        if not pa.types.is_struct(kind) or kind.get_field_index(name) < 0:
            raise InputError(f"{where} has no column {field!r} but {', '.join(schema.names)[:200]}. Set {setting}")
        kind = kind.field(name).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise InputError(f"column {field!r} of {where} holds {str(kind)[:100]}, expected strings. Set {setting}, or convert the column")
    return column


def _inner(values: pa.Array, names: list[str]) -> pa.Array:
    for name in names:
        values = pc.struct_field(values, name)
    return values
