"""The bytes of a file, decompressed in pieces under a bound."""

import gzip
import zlib
from collections.abc import Iterator
from typing import IO, Any

import pyarrow as pa

from sae.corpus.formats.recognition import Compression
from sae.errors import InputError
from sae.storage.expansion import check_expansion

CHUNK_BYTES = 2**20


def decompressed(stream: IO[bytes], compression: Compression | None, where: str) -> Iterator[bytes]:
    """Yield the content of an open file in chunks of at most `CHUNK_BYTES`.

    Raises:
        InputError: it cannot be read or decompressed, or fails `check_expansion`.
    """
    source = _Counted(stream)
    total = 0
    try:
        reader = _reader(source, compression)
        while chunk := reader.read(CHUNK_BYTES):
            total += len(chunk)
            if compression is not None:
                check_expansion(total, source.bytes, where)
            yield bytes(chunk)
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        raise InputError(f"cannot read {where}: {' '.join(str(error).split())[:200] or type(error).__name__}. Copy the file again") from None


class _Counted:
    """A binary stream that counts the bytes read from it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self.bytes = stream, 0
        self.closed = False

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self.bytes += len(data)
        return data

    def close(self) -> None:
        """Left to whoever opened the stream."""


def _reader(source: _Counted, compression: Compression | None) -> Any:
    if compression == "gzip":
        return gzip.GzipFile(fileobj=source)  # type: ignore[call-overload]
    if compression == "zstd":
        return pa.CompressedInputStream(pa.PythonFile(source, mode="r"), "zstd")
    return source
