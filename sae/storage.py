"""A URL as a place for whole objects: put once, ranged read, list, exists, digest.

Everything Monosem writes goes through here, to `file://`, `s3://` or any other fsspec URL. An object appears whole or not at
all: on a local disk it is written beside its name and renamed, in an object store a single PUT (or a multipart upload, which
stays invisible until completed) does the same.
"""

import contextlib
import hashlib
import json
import os
import posixpath
import uuid
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from sae.errors import InputError, StorageError

TEMPORARY_SUFFIX = ".partial"


class Place:
    """A directory of whole objects under one URL.

    Args:
        url: a local path or any fsspec URL (`s3://bucket/prefix`). Credentials and endpoints come from the usual
            environment of the scheme, never from the URL.

    Example:
        >>> place = Place("memory://docs-example")
        >>> place.put("greeting.txt", b"hello")
        >>> place.get("greeting.txt"), place.list()
        (b'hello', ['greeting.txt'])
    """

    def __init__(self, url: str | os.PathLike[str]) -> None:
        self.url = os.fspath(url).rstrip("/")
        try:
            self._files, self._root = fsspec.url_to_fs(self.url, **_options(self.url))
        except (ValueError, ImportError) as error:
            raise InputError(f"cannot open {self.url!r} as a place for objects: {error}") from None
        self._local = isinstance(self._files, LocalFileSystem)

    def __repr__(self) -> str:
        return f"Place({self.url!r})"

    def __reduce__(self) -> tuple[type["Place"], tuple[str]]:
        return Place, (self.url,)

    def child(self, *parts: str) -> "Place":
        """The place below this one."""
        return Place("/".join((self.url, *parts)))

    def path(self, key: str) -> str:
        """The full URL of an object, for messages."""
        return f"{self.url}/{key}" if key else self.url

    def local_path(self, key: str = "") -> Path | None:
        """The path on this machine, or None where the place is remote."""
        return Path(self._root, key) if self._local else None

    def put(self, key: str, data: bytes | memoryview | pa.Buffer) -> None:
        """Write an object, whole or not at all; an object of that name is replaced.

        Raises:
            StorageError: no permission, a full disk, a store that does not answer.
        """
        try:
            if self._local:
                self._put_local(Path(self._root, key), data)
            else:
                self._files.pipe_file(self._full(key), bytes(data))
        except PermissionError:
            raise InputError(f"no permission to write {self.path(key)}: choose another output or mend its permissions") from None
        except OSError as error:
            raise StorageError(f"could not write {self.path(key)} ({len(data):,} bytes): {_reason(error)}") from error

    def get(self, key: str, start: int | None = None, stop: int | None = None) -> bytes:
        """Read an object, or its bytes `[start, stop)`.

        Raises:
            InputError: there is no such object.
            StorageError: it could not be read.
        """
        try:
            data: bytes = self._files.cat_file(self._full(key), start=start, end=stop)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise InputError(f"{self.path(key)} does not exist: check the path, or run the stage that writes it") from None
        except OSError as error:
            raise StorageError(f"could not read {self.path(key)}: {_reason(error)}") from error
        return data

    def put_json(self, key: str, value: Any) -> None:
        """Write `value` as JSON with sorted keys: equal values give equal bytes."""
        self.put(key, to_json(value))

    def get_json(self, key: str) -> Any:
        """Read a JSON object.

        Raises:
            InputError: there is no such object, or it is not JSON.
        """
        try:
            return json.loads(self.get(key))
        except ValueError as error:
            raise InputError(f"{self.path(key)} is not valid JSON ({error}): it was not written by this tool, or was damaged") from None

    def exists(self, key: str) -> bool:
        """Whether the object is there."""
        return bool(self._files.exists(self._full(key)))

    def list(self, prefix: str = "") -> list[str]:
        """The keys of all objects below `prefix`, sorted; unfinished writes are left out."""
        base = self._full(prefix)
        try:
            found = self._files.find(base)
        except FileNotFoundError:
            return []
        keys = (posixpath.relpath(path, self._root) for path in found)
        return sorted(key for key in keys if not key.endswith(TEMPORARY_SUFFIX))

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""
        with contextlib.suppress(FileNotFoundError):
            self._files.rm_file(self._full(key))

    def open_buffer(self, key: str) -> pa.Buffer:
        """An object as an Arrow buffer: a memory map where the place is local, else read whole.

        Raises:
            InputError: there is no such object.
        """
        local = self.local_path(key)
        if local is None:
            return pa.py_buffer(self.get(key))
        try:
            with pa.memory_map(str(local)) as source:
                return source.read_buffer()
        except FileNotFoundError:
            raise InputError(f"{self.path(key)} does not exist: check the path, or run the stage that writes it") from None

    def _full(self, key: str) -> str:
        return posixpath.join(self._root, key) if key else self._root

    def _put_local(self, path: Path, data: bytes | memoryview | pa.Buffer) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}")
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def absolute_url(url: str) -> str:
    """The URL as a process in another working directory must say it: local paths made absolute, `~` expanded."""
    return url if "://" in url else os.path.abspath(os.path.expanduser(url))


def to_json(value: Any) -> bytes:
    """`value` as JSON bytes with sorted keys, ending in a newline."""
    return (json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def sha256_hex(data: bytes | memoryview | pa.Buffer) -> str:
    """The SHA-256 of `data` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _options(url: str) -> dict[str, Any]:
    # Other processes write into the same prefixes: a cached listing would hide their objects.
    return {"use_listings_cache": False} if url.startswith(("s3://", "s3a://")) else {}


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__
