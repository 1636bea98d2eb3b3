"""Parquet files whose footer is bounded before it is parsed, and whose stated size is bounded before anything is decoded.

Arrow's reader takes up to 250 bytes of memory for each byte of a footer. A page whose header states another size than the footer may still
take the 2 GiB that the format allows for one page; it is then refused.
"""

import os
import struct
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sae.storage.expansion import FREE_BYTES, MAX_EXPANSION

MAGIC = b"PAR1"
MAX_FOOTER_BYTES = 8 * 2**20
"""10,000 row groups of one column take 2 MB."""

_TAIL = 4 + len(MAGIC)


class ParquetFileError(ValueError):
    """A file that is not read; the message says why, without its name."""


def open_parquet(source: Path | pa.Buffer, dictionaries: Sequence[str] = ()) -> pq.ParquetFile:
    """Open a Parquet file.

    Args:
        source: the file, or its content.
        dictionaries: columns of strings that are read as dictionaries, so that a value that many rows share is held once.

    Raises:
        ParquetFileError: it is no Parquet file, its footer is longer than `MAX_FOOTER_BYTES`, its numbers of rows disagree, or it states
            more than `MAX_EXPANSION` times its size.
    """
    size = source.size if isinstance(source, pa.Buffer) else _check_file(source)
    if isinstance(source, pa.Buffer):
        _check_tail(source[max(0, size - _TAIL) :].to_pybytes(), size)
    try:
        file = pq.ParquetFile(pa.BufferReader(source) if isinstance(source, pa.Buffer) else source, read_dictionary=list(dictionaries))
    except (OSError, EOFError, ValueError, pa.ArrowException) as error:
        raise _unreadable(error) from None
    try:
        _check_rows(file.metadata, size)
    except BaseException:
        file.close()
        raise
    return file


def read_parquet(data: pa.Buffer, columns: list[str] | None = None, features: Sequence[int] | None = None) -> pa.Table:
    """Read a table whole.

    Args:
        data: the content of a Parquet file.
        columns: names of those to read; None reads all.
        features: only the rows whose `feature` is among them; None reads all.

    Raises:
        ParquetFileError: as `open_parquet`; or the columns cannot be decoded.
    """
    open_parquet(data).close()
    wanted = None if features is None else pc.field("feature").isin(pa.array(features, pa.uint32()))
    try:
        table = pq.read_table(pa.BufferReader(data), columns=columns, filters=wanted)
        table.validate(full=True)
    except (OSError, EOFError, ValueError, pa.ArrowException) as error:
        raise _unreadable(error) from None
    return table


def _unreadable(error: Exception) -> ParquetFileError:
    return ParquetFileError(" ".join(str(error).split())[:200] or type(error).__name__)


def _check_file(path: Path) -> int:
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL))
            _check_tail(file.read(_TAIL), size)
    except OSError as error:
        raise _unreadable(error) from None
    return size


def _check_tail(tail: bytes, size: int) -> None:
    if size < len(MAGIC) + _TAIL or tail[4:] != MAGIC:
        raise ParquetFileError("it does not end as a Parquet file does")
    [footer] = struct.unpack("<I", tail[:4])
    if footer > size - len(MAGIC) - _TAIL:
        raise ParquetFileError(f"its footer has {footer:,} bytes, and the file only {size:,}")
    if footer > MAX_FOOTER_BYTES:
        raise ParquetFileError(f"its footer has {footer:,} bytes, at most {MAX_FOOTER_BYTES:,} are read (larger row groups make it smaller)")


def _check_rows(metadata: pq.FileMetaData, size: int) -> None:
    """Compare rows and sizes; `RowGroupMetaData.column` is not asked, since it ends the process where a column's statistics are damaged."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    rows = [group.num_rows for group in groups]
    if min(rows, default=0) < 0 or sum(rows) != metadata.num_rows:
        raise ParquetFileError(f"its row groups do not have {metadata.num_rows:,} rows in all")
    if sum(max(0, group.total_byte_size) for group in groups) > max(FREE_BYTES, MAX_EXPANSION * size):
        raise ParquetFileError(f"it expands more than {MAX_EXPANSION} times when it is decompressed")
