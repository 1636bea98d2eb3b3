"""Tables of the scratch directory of a source. No record names them, so each is an Arrow IPC file with its SHA-256 behind it."""

import hashlib

import pyarrow as pa

from sae.errors import CorruptObjectError
from sae.storage import Place
from sae.tables import ipc_bytes

SCRATCH = "scratch"
SHA256_BYTES = 32


def put_table(place: Place, key: str, table: pa.Table) -> None:
    """Write a table of the scratch directory: an Arrow IPC file, and behind it its SHA-256, since no record names it."""
    data = ipc_bytes(table)
    place.put(key, b"".join((data, hashlib.sha256(data).digest())))


def get_table(place: Place, key: str) -> pa.Table:
    """Read a table that `put_table` wrote.

    Raises:
        CorruptObjectError: it was changed or cut short after it was written.
    """
    buffer = place.open_buffer(key)
    if not _is_whole(buffer):
        raise CorruptObjectError(f"{place.path(key)} was changed after it was written. Delete {place.path(SCRATCH)} and interpret again")
    return pa.ipc.open_file(split_digest(buffer)[0]).read_all()


def split_digest(buffer: pa.Buffer) -> tuple[pa.Buffer, bytes]:
    """Split what `put_table` wrote into the Arrow IPC file and its SHA-256, which is not compared."""
    size = max(0, buffer.size - SHA256_BYTES)
    return buffer.slice(0, size), buffer.slice(size).to_pybytes()


def whole_tables(place: Place, prefix: str) -> set[str]:
    """Keys below `prefix` of the tables that are as they were written: an interrupted interpretation takes these up, and makes others again."""
    return {key for key in place.list(prefix) if _is_whole(place.open_buffer(key))}


def _is_whole(buffer: pa.Buffer) -> bool:
    data, digest = split_digest(buffer)
    return hashlib.sha256(data).digest() == digest
