"""A URL as a place for whole objects: put once, ranged read, list, exists, digest.

Everything Monosem writes goes through here, to a path, to `s3://`, `gs://`, `az://` or any other fsspec URL. An object appears whole
or not at all: on a local disk it is written beside its name and renamed, in an object store a single PUT (or a multipart upload,
which stays invisible until completed) does the same.
"""

import hashlib
import os
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from sae.errors import InputError, MonosemError
from sae.storage.failures import explained_failures
from sae.storage.json_objects import parse_json, sealed, to_json, unsealed
from sae.storage.local import TEMPORARY_SUFFIX, LocalObjects, check_readable
from sae.storage.remote import Objects, RemoteObjects
from sae.urls import normalized, without_credentials

CONNECTIONS = 32  # a process' requests to one store at a time; each waits for another disk of the store
EXTRAS = {"gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure", "abfss": "azure", "adl": "azure"}


@dataclass(frozen=True)
class Entry:
    """An object of a listing."""

    key: str
    bytes: int
    modified: float
    """Seconds since 1970, by the store's clock."""


class Place:
    """A directory of whole objects under one URL; may be used from several threads.

    Every request to a remote store has a time-out and is repeated while its trouble may pass, for some two minutes at most
    (`sae.storage.retries` says how often).

    Args:
        url: a local path or any fsspec URL (`s3://bucket/prefix`). Credentials and endpoints come from the usual
            environment of the scheme, never from the URL.
        connections: requests to a remote store that this process may have under way at once.

    Raises:
        InputError: an unknown scheme, one whose library is not installed, or what `sae.urls.check_url` refuses.

    Example:
        >>> place = Place("memory://docs-example")
        >>> place.put("greeting.txt", b"hello")
        >>> place.get("greeting.txt"), place.list()
        (b'hello', ['greeting.txt'])
    """

    def __init__(self, url: str | os.PathLike[str], connections: int = CONNECTIONS) -> None:
        self.url, self.connections = normalized(os.fspath(url)), connections
        self._objects, self._root = _open(self.url, connections)

    def __repr__(self) -> str:
        return f"Place({self.url!r})"

    def __reduce__(self) -> tuple[type["Place"], tuple[str, int]]:
        return Place, (self.url, self.connections)

    def child(self, *parts: str) -> "Place":
        """The place below this one."""
        return Place(self.path("/".join(parts)), self.connections)

    def path(self, key: str) -> str:
        """The full URL of an object, for messages."""
        return f"{self.url}{'' if self.url.endswith('/') else '/'}{key}" if key else self.url

    def local_path(self, key: str = "") -> Path | None:
        """The path on this machine, or None where the place is remote."""
        return Path(self._root, key) if isinstance(self._objects, LocalObjects) else None

    def put(self, key: str, data: bytes | memoryview | pa.Buffer) -> None:
        """Write an object, whole or not at all; an object of that name is replaced.

        Raises:
            InputError: no permission, wrong credentials, no such bucket, nothing that answers, a path that cannot be made.
            StorageError: a full disk, a store that does not answer any more.
        """
        with self._writing(key, len(data)):
            self._objects.put(self._full(key), data)

    def put_new(self, key: str, data: bytes | memoryview | pa.Buffer) -> bool:
        """Write an object unless there is one of that name.

        Of several processes that try at once, one succeeds: a hard link decides on a local disk, `If-None-Match: *` in S3. A server
        that does not check and write in one step (OpenStack Swift) leaves some milliseconds in which a second one may believe so, too:
        who holds a lease looks again before relying on it for long.

        Returns:
            Whether what is there now is `data`; False means that another object was there, and still is.

        Raises:
            InputError, StorageError: as `put`.
        """
        with self._writing(key, len(data)):
            return self._objects.put_new(self._full(key), data)

    def get(self, key: str, start: int | None = None, stop: int | None = None) -> bytes:
        """Read an object, or its bytes `[start, stop)`, fewer only where the object ends before `stop`.

        Raises:
            InputError: there is no such object, or the store refuses.
            StorageError: it could not be read.
        """
        if start is not None and start == stop:
            return b""
        with self._explained("read", key):
            try:
                return self._objects.get(self._full(key), start, stop)
            except FileNotFoundError:
                raise self._missing(key) from None

    def get_many(self, ranges: Iterable[tuple[str, int | None, int | None]]) -> Iterator[bytes]:
        """Read `(key, start, stop)` ranges, as many at once as there are connections; yields them in their order.

        All of `ranges` is asked for at once, whatever the caller does with the first: it bounds the memory.

        Raises:
            InputError, StorageError: as `get`, at the range that failed.
        """
        with ThreadPoolExecutor(self.connections, thread_name_prefix="read") as pool:
            yield from pool.map(lambda wanted: self.get(*wanted), ranges)

    def put_json(self, key: str, value: Any) -> None:
        """Write `value` as JSON with sorted keys: equal values give equal bytes."""
        self.put(key, to_json(value))

    def get_json(self, key: str) -> Any:
        """Read a JSON object.

        Raises:
            InputError: there is no such object, or it is not JSON.
        """
        return parse_json(self.get(key), self.path(key))

    def put_sealed(self, key: str, content: dict[str, Any]) -> None:
        """Write a JSON object together with the digest of all its fields (see `sae.storage.json_objects`)."""
        self.put_json(key, sealed(content))

    def get_sealed(self, key: str) -> dict[str, Any]:
        """Read an object that `put_sealed` wrote; its digest is checked and left out.

        Raises:
            InputError: there is no such object, or it is not JSON.
            CorruptObjectError: it was changed after it was written.
        """
        return unsealed(self.get_json(key), self.path(key))

    def exists(self, key: str) -> bool:
        """Say whether the object is there.

        Raises:
            InputError: the store refuses to say.
            StorageError: it does not answer.
        """
        with self._explained("look for", key):
            return self._objects.exists(self._full(key))

    def list(self, prefix: str = "") -> list[str]:
        """The keys of all objects below `prefix`, sorted; unfinished writes are left out."""
        return [entry.key for entry in self.entries(prefix)]

    def entries(self, prefix: str = "", partial: bool = False) -> Sequence[Entry]:
        """All objects below `prefix` with their sizes, sorted by key.

        Args:
            prefix: a directory below this place.
            partial: also what writes that were killed left behind.

        Raises:
            InputError: no such bucket, or the store refuses.
            StorageError: it does not answer.
        """
        with self._explained("list", prefix):
            found = [Entry(posixpath.relpath(each.path, self._root), each.bytes, each.modified) for each in self._objects.find(self._full(prefix))]
        return sorted((entry for entry in found if partial or not entry.key.endswith(TEMPORARY_SUFFIX)), key=lambda entry: entry.key)

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error.

        Raises:
            InputError, StorageError: as `put`.
        """
        with self._explained("delete", key):
            try:
                self._objects.delete(self._full(key))
            except FileNotFoundError:
                return

    def unfinished_uploads(self) -> "Sequence[UnfinishedUpload]":
        """Multipart uploads below this place that were neither completed nor aborted; they take room, and no listing shows them."""
        from sae.storage.s3 import S3Objects

        if not isinstance(self._objects, S3Objects):
            return []
        objects = self._objects
        with self._explained("list uploads below", ""):
            found = objects.unfinished_uploads(self._root)
            return [UnfinishedUpload(posixpath.relpath(path, self._root), upload, objects.uploaded_bytes(path, upload)) for path, upload in found]

    def abort_upload(self, upload: "UnfinishedUpload") -> None:
        """Give up an unfinished upload, and free what its parts take."""
        from sae.storage.s3 import S3Objects

        if isinstance(self._objects, S3Objects):
            with self._explained("abort an upload of", upload.key):
                self._objects.abort_upload(self._full(upload.key), upload.upload)

    def open_buffer(self, key: str) -> pa.Buffer:
        """An object as an Arrow buffer: a memory map where the place is local, else read whole.

        Raises:
            InputError: there is no such object.
        """
        local = self.local_path(key)
        if local is None:
            return pa.py_buffer(self.get(key))
        with self._explained("read", key):
            try:
                check_readable(local)
                with pa.memory_map(str(local)) as source:
                    return source.read_buffer()
            except FileNotFoundError:
                raise self._missing(key) from None

    def _full(self, key: str) -> str:
        return posixpath.join(self._root, key) if key else self._root

    def _missing(self, key: str) -> InputError:
        return InputError(f"{self.path(key)} does not exist: check the path, or run the stage that writes it")

    def _explained(self, doing: str, key: str) -> AbstractContextManager[None]:
        return explained_failures(doing, self.path(key))

    def _writing(self, key: str, size: int) -> AbstractContextManager[None]:
        return explained_failures("write", f"{self.path(key)} ({size:,} bytes)")


@dataclass(frozen=True)
class UnfinishedUpload:
    """A multipart upload that nobody completed."""

    key: str
    upload: str
    """Its id at the server."""
    bytes: int
    """Of its parts."""


def sha256_hex(data: bytes | memoryview | pa.Buffer) -> str:
    """The SHA-256 of `data` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _open(url: str, connections: int) -> tuple[Objects, str]:
    scheme = url.partition("://")[0] if "://" in url else "file"
    if scheme in ("s3", "s3a"):
        from sae.storage.s3 import S3Objects  # a second of imports that a local path does not need

        root = url.partition("://")[2]
        if not root.partition("/")[0]:
            raise InputError(f"{url!r} names no bucket: {scheme}://BUCKET/PREFIX")
        return S3Objects(connections), root
    options = {} if scheme == "file" else {"use_listings_cache": False}  # other processes write below the same URL
    try:
        files, root = fsspec.url_to_fs(url, **options)
    except ImportError as error:
        extra = f": pip install 'monosem[{EXTRAS[scheme]}]'" if scheme in EXTRAS else f" ({error})"
        raise InputError(f"cannot open {url!r} as a place for objects, the library for {scheme}:// is not installed{extra}") from None
    except MonosemError:
        raise
    except Exception as error:  # noqa: BLE001 - each filesystem refuses a URL, or arguments that a URL cannot give, in its own way
        reason = without_credentials(" ".join(str(error).split()))[:200] or type(error).__name__
        raise InputError(f"cannot open {url!r} as a place for objects: {reason}. Use a local path, or a URL such as s3://BUCKET/PREFIX") from None
    return (LocalObjects() if isinstance(files, LocalFileSystem) else RemoteObjects(files)), root
