"""Objects in any store that fsspec reaches: Google's, Azure's, memory."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from sae.storage.retries import TruncatedBodyError, persistently

_PASSING = (ConnectionError, TimeoutError)


@dataclass(frozen=True)
class Found:
    """An object of a listing."""

    path: str
    bytes: int
    modified: float
    """Seconds since 1970, by the store's clock."""


class Objects(Protocol):
    """What a place needs of a kind of storage; paths are absolute, without their scheme.

    Methods raise FileNotFoundError for an object that is not there, PermissionError, other OSErrors, or one of our own errors.
    """

    def put(self, path: str, data: Any) -> None:
        """Write an object, whole or not at all."""

    def put_new(self, path: str, data: Any) -> bool:
        """Write an object unless there is one; False where another one is there."""

    def get(self, path: str, start: int | None, stop: int | None) -> bytes:
        """Read an object, or its bytes `[start, stop)`."""

    def exists(self, path: str) -> bool:
        """Whether there is such an object."""

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
        try:
            persistently(lambda: self._files.pipe_file(path, body, mode="create"), _passes)
        except FileExistsError:
            return self.get(path, None, None) == body  # perhaps an earlier attempt of ours, whose answer was lost
        except (NotImplementedError, TypeError):  # a filesystem without the mode
            if self.exists(path):
                return self.get(path, None, None) == body
            self.put(path, body)
            return self.get(path, None, None) == body
        return True

    def get(self, path: str, start: int | None, stop: int | None) -> bytes:
        """Read an object or a part of it, and count what arrived."""
        return persistently(lambda: self._get(path, start, stop), _passes)

    def _get(self, path: str, start: int | None, stop: int | None) -> bytes:
        data: bytes = self._files.cat_file(path, start=start, end=stop)
        if start is None or stop is None or len(data) < stop - start:
            size = self._files.info(path)["size"]
            expected = max(0, min(size if stop is None else stop, size) - (start or 0))
            if len(data) != expected:
                raise TruncatedBodyError(f"{len(data):,} of {expected:,} bytes arrived")
        return data

    def exists(self, path: str) -> bool:
        """Whether there is such an object."""
        return bool(persistently(lambda: self._files.exists(path), _passes))

    def find(self, path: str) -> Iterator[Found]:
        """All objects below a path."""
        with contextlib.suppress(FileNotFoundError):
            for name, info in persistently(lambda: self._files.find(path, detail=True), _passes).items():
                modified = next((info[key] for key in ("modified", "last_modified", "updated", "mtime", "created") if key in info), 0.0)
                yield Found(name, info["size"], modified.timestamp() if hasattr(modified, "timestamp") else float(modified or 0))

    def delete(self, path: str) -> None:
        """Remove an object."""
        persistently(lambda: self._files.rm_file(path), _passes)


def as_bytes(data: Any) -> bytes:
    """`data` as bytes, without a copy where it is bytes."""
    return data if isinstance(data, bytes) else bytes(data)


def _passes(error: BaseException) -> bool:
    return isinstance(error, _PASSING)
