"""Objects in any store that fsspec reaches: Google's, Azure's, memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from fsspec import AbstractFileSystem
from fsspec.asyn import AsyncFileSystem

from sae.storage.retries import TruncatedBodyError, persistently

_PASSING = (ConnectionError, TimeoutError)
_ABSENT = (404, 410, "404", "410")


@dataclass(frozen=True)
class Found:
    """An object of a listing."""

    path: str
    bytes: int
    modified: float
    """Seconds since 1970, by the store's clock."""


class Objects(Protocol):
    """Interface of a kind of storage, as a place needs it; paths are absolute, without their scheme.

    Methods raise FileNotFoundError for an object that is not there, PermissionError, other OSErrors, or one of our own errors.
    """

    def put(self, path: str, data: Any) -> None:
        """Write an object, whole or not at all."""

    def put_new(self, path: str, data: Any) -> bool:
        """Write an object unless there is one; False where another one is there."""

    def get(self, path: str, start: int | None, stop: int | None) -> bytes:
        """Read an object, or its bytes `[start, stop)`."""

    def exists(self, path: str) -> bool:
        """Say whether there is such an object."""

    def find(self, path: str) -> Iterator[Found]:
        """All objects below a path, in any order."""

    def delete(self, path: str) -> None:
        """Remove an object."""


class RemoteObjects:
    """The objects of a filesystem of fsspec.

    Args:
        files: the filesystem; its own library asks again after most troubles.
    """

    def __init__(self, files: Any) -> None:
        self._files = files

    def put(self, path: str, data: Any) -> None:
        """Write an object."""
        persistently(lambda: self._files.pipe_file(path, as_bytes(data)), _passes)

    def put_new(self, path: str, data: Any) -> bool:
        """Write an object unless there is one; says whether what is there now is `data`."""
        body = as_bytes(data)
        if self._put_new(path, body):
            return True
        if not self.exists(path):
            self.put(path, body)
        return self.get(path, None, None) == body  # perhaps an earlier attempt of ours, whose answer was lost

    def _put_new(self, path: str, body: bytes) -> bool:
        try:
            persistently(lambda: self._files.pipe_file(path, body, mode="create"), _passes)
        except (FileExistsError, NotImplementedError, TypeError):  # the latter two: a filesystem without the mode
            return False
        return True

    def get(self, path: str, start: int | None, stop: int | None) -> bytes:
        """Read an object or a part of it, and count what arrived."""
        try:
            return persistently(lambda: self._get(path, start, stop), _passes)
        except FileNotFoundError as error:
            raise_unless_absent(error)
            raise

    def _get(self, path: str, start: int | None, stop: int | None) -> bytes:
        data: bytes = self._files.cat_file(path, start=start, end=stop)
        if start is None or stop is None or len(data) < stop - start:
            size = self._files.info(path)["size"]
            expected = max(0, min(size if stop is None else stop, size) - (start or 0))
            if len(data) != expected:
                raise TruncatedBodyError(f"{len(data):,} of {expected:,} bytes arrived")
        return data

    def exists(self, path: str) -> bool:
        """Say whether there is such an object."""
        # Not `exists` of fsspec: it takes any exception, a refused connection too, for an absent object.
        try:
            persistently(lambda: self._files.info(path), _passes)
        except FileNotFoundError as error:
            raise_unless_absent(error)
            return False
        return True

    def find(self, path: str) -> Iterator[Found]:
        """All objects below a path."""
        try:
            found = persistently(lambda: self._files.find(path, detail=True, **self._strictly()), _passes)
        except FileNotFoundError as error:
            raise_unless_absent(error)
            return
        for name, info in found.items():
            if name != path:
                modified = next((info[key] for key in ("modified", "last_modified", "updated", "mtime", "created") if key in info), 0.0)
                yield Found(name, info["size"], modified.timestamp() if hasattr(modified, "timestamp") else float(modified or 0))

    def _strictly(self) -> dict[str, Any]:
        """Arguments with which `find` raises where it could not look; fsspec's own one leaves such directories out."""
        kind = type(self._files)
        inherited = kind._find is AsyncFileSystem._find if issubclass(kind, AsyncFileSystem) else kind.find is AbstractFileSystem.find
        return {"on_error": raise_unless_absent} if inherited else {}

    def delete(self, path: str) -> None:
        """Remove an object."""
        persistently(lambda: self._files.rm_file(path), _passes)


def raise_unless_absent(error: OSError) -> None:
    """Raise an error unless it says that there is no such object.

    Some filesystems raise FileNotFoundError for whatever went wrong, a refused login or a lost connection; the cause tells them apart.
    """
    if not isinstance(error, FileNotFoundError):
        raise error
    cause = error.__cause__
    while cause is not None:
        if not isinstance(cause, FileNotFoundError | LookupError) and not _says_absent(cause):
            raise OSError(f"{type(cause).__name__}, {cause}") from error
        cause = cause.__cause__


def _says_absent(cause: BaseException) -> bool:
    places = (getattr(cause, "response", None), "status_code"), (cause, "status_code"), (cause, "status"), (cause, "code")
    status = next((found for where, name in places if (found := getattr(where, name, None)) is not None), None)
    return status in _ABSENT if status is not None else "NotFound" in type(cause).__name__


def as_bytes(data: Any) -> bytes:
    """`data` as bytes, without a copy where it is bytes."""
    return data if isinstance(data, bytes) else bytes(data)


def _passes(error: BaseException) -> bool:
    return isinstance(error, _PASSING)
