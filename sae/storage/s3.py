"""Objects on an S3 server, through s3fs: each request on its own, with time-outs, repeated while the trouble may pass.

Endpoint, region and credentials come from the usual AWS places: `AWS_ENDPOINT_URL(_S3)`, `AWS_DEFAULT_REGION` or `AWS_REGION`,
`AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, `AWS_PROFILE`, `~/.aws`, the machine's role.
"""

import contextlib
import functools
import os
import urllib.parse
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiobotocore.session
import s3fs

from sae.errors import InputError
from sae.storage.refusals import RAISED, answer, explained, is_missing, passes
from sae.storage.remote import Found, as_bytes
from sae.storage.retries import ATTEMPTS, ATTEMPTS_BEFORE_CONTACT, persistently

CONNECT_SECONDS = 5
SILENCE_SECONDS = 15  # of a server that is asked for something
SLOWEST_UPLOAD = 1e6  # bytes/s; an upload may take SILENCE_SECONDS and its size at this speed
SINGLE_PUT_BYTES = 64 << 20  # larger objects go up in parts, so that one lost connection does not cost all of them
PART_BYTES = 32 << 20
PARALLEL_PARTS = 4
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN")

# Servers that have answered this process, and their buckets. A place is made in a moment and forgotten; the connections below it stay.
_contacted: "weakref.WeakKeyDictionary[Any, set[str]]" = weakref.WeakKeyDictionary()


class S3Objects:
    """The objects of one server; paths are `bucket/key`.

    Args:
        connections: how many requests may be under way at once in this process.
    """

    def __init__(self, connections: int) -> None:
        self._reads = _client(connections, SILENCE_SECONDS)
        # A server is silent while it receives a large object: the time of an upload is bounded as a whole, not by its silence.
        self._writes = _client(connections, 3600)

    def put(self, path: str, data: Any) -> None:
        """Write an object; it appears whole, when its last byte has arrived."""
        view = memoryview(data).cast("B")
        if len(view) > SINGLE_PUT_BYTES:
            self._put_in_parts(path, view)
        else:
            self._upload(path, "put_object", Body=as_bytes(data))

    def put_new(self, path: str, data: Any) -> bool:
        """Write an object unless there is one; says whether what is there now is `data`."""
        body = as_bytes(data)
        if not self.exists(path):
            try:
                self._upload(path, "put_object", Body=body, IfNoneMatch="*")
            except FileExistsError:
                pass  # written by another, or by an attempt of ours whose answer was lost
            except NotImplementedError:
                self._upload(path, "put_object", Body=body)
        # Not every server checks and writes in one step (Swift does not): of two that came at the same moment, the one who is not there lost.
        return self.get(path, None, None) == body

    def get(self, path: str, start: int | None, stop: int | None) -> bytes:
        """Read an object or a part of it; a body that is cut short is an error of the connection, and read again."""
        try:
            # One request: with more concurrency s3fs asks for the size first.
            data: bytes = self._ask(f"read s3://{path}", lambda: self._reads.cat_file(path, start=start, end=stop, max_concurrency=1))
        except IndexError:
            return b""
        return data

    def exists(self, path: str) -> bool:
        """Say whether there is such an object."""
        bucket, key = _split(path)
        try:
            self._ask(f"look for s3://{path}", lambda: self._reads.call_s3("head_object", Bucket=bucket, Key=key))
        except FileNotFoundError:
            self._check_bucket(path, bucket)
            return False
        except InputError:
            # The answer to HEAD has no body to say why; a refused listing has, and says it better.
            self._list_page(path, bucket, "", {"MaxKeys": 1})
            raise
        return True

    def find(self, path: str) -> Iterator[Found]:
        """All objects below a path; each page of the listing is a request of its own."""
        bucket, prefix = _split(path)
        page: dict[str, Any] = {}
        while True:
            more = {"ContinuationToken": page["NextContinuationToken"]} if page else {}
            page = self._list_page(path, bucket, f"{prefix}/" if prefix else "", more)
            for found in page.get("Contents", []):
                if not found["Key"].endswith("/"):
                    yield Found(f"{bucket}/{found['Key']}", found["Size"], found["LastModified"].timestamp())
            if not page.get("IsTruncated"):
                return

    def delete(self, path: str) -> None:
        """Remove an object."""
        bucket, key = _split(path)
        self._ask(f"delete s3://{path}", lambda: self._reads.call_s3("delete_object", Bucket=bucket, Key=key))

    def unfinished_uploads(self, path: str) -> list[tuple[str, str]]:
        """The `(path, upload id)` of multipart uploads below a path that were neither completed nor aborted."""
        bucket, prefix = _split(path)
        below = f"{prefix}/" if prefix else ""
        uploads: list[tuple[str, str]] = []
        more: dict[str, str] = {}
        while True:
            call = functools.partial(self._reads.call_s3, "list_multipart_uploads", Bucket=bucket, Prefix=below, **more)
            page = self._ask(f"list uploads below s3://{path}", call)
            uploads += [(f"{bucket}/{found['Key']}", found["UploadId"]) for found in page.get("Uploads", []) if found["Key"].startswith(below)]
            if not page.get("IsTruncated"):
                return uploads
            more = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    def uploaded_bytes(self, path: str, upload: str) -> int:
        """Bytes of the parts of an unfinished upload."""
        bucket, key = _split(path)
        page = self._ask(f"look at an upload of s3://{path}", lambda: self._reads.call_s3("list_parts", Bucket=bucket, Key=key, UploadId=upload))
        return sum(part["Size"] for part in page.get("Parts", []))

    def abort_upload(self, path: str, upload: str) -> None:
        """Give up an unfinished upload, so that its parts take no room."""
        bucket, key = _split(path)
        with contextlib.suppress(FileNotFoundError):
            self._ask(f"abort an upload of s3://{path}", lambda: self._reads.abort_mpu(bucket, key, upload))

    def _check_bucket(self, path: str, bucket: str) -> None:
        # HEAD answers 404 for a missing bucket as for a missing object: whoever mistypes a bucket shall hear of that and not of an empty place.
        known = _contacted.setdefault(self._reads, set())
        if bucket not in known:
            self._list_page(path, bucket, "", {"MaxKeys": 1})
            known.add(bucket)

    def _list_page(self, path: str, bucket: str, prefix: str, more: dict[str, Any]) -> dict[str, Any]:
        page: dict[str, Any] = self._ask(f"list s3://{path}", lambda: self._reads.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, **more))
        if "Name" not in page:  # any server may answer 200: a proxy's page of welcome is no empty bucket
            raise InputError(f"cannot list s3://{path} at {self._endpoint()}: the answer is not that of an S3 server. Check AWS_ENDPOINT_URL")
        return page

    def _upload(self, path: str, method: str, **arguments: Any) -> Any:
        bucket, key = _split(path)
        size = len(arguments.get("Body", b""))
        seconds = SILENCE_SECONDS + size / SLOWEST_UPLOAD
        call = functools.partial(self._writes.call_s3, method, Bucket=bucket, Key=key, timeout=seconds, **arguments)
        return self._ask(f"write s3://{path} ({size:,} bytes)", call)

    def _put_in_parts(self, path: str, view: memoryview) -> None:
        upload = self._upload(path, "create_multipart_upload")["UploadId"]

        def put_part(number: int) -> dict[str, Any]:
            body = bytes(view[(number - 1) * PART_BYTES : number * PART_BYTES])
            return {"PartNumber": number, "ETag": self._upload(path, "upload_part", Body=body, PartNumber=number, UploadId=upload)["ETag"]}

        try:
            with ThreadPoolExecutor(PARALLEL_PARTS) as pool:
                parts = list(pool.map(put_part, range(1, 1 - (-len(view) // PART_BYTES))))
            try:
                self._upload(path, "complete_multipart_upload", UploadId=upload, MultipartUpload={"Parts": parts})
            except FileNotFoundError:  # completed by an attempt whose answer was lost
                if sum(found.bytes for found in self.find(path.rpartition("/")[0]) if found.path == path) != len(view):
                    raise
        except BaseException:
            with contextlib.suppress(Exception):
                self.abort_upload(path, upload)
            raise

    def _ask(self, doing: str, call: Callable[[], Any]) -> Any:
        """Make a request until it is answered.

        Raises:
            FileNotFoundError: no such object.
            FileExistsError: the condition of a write does not hold.
            NotImplementedError: the server cannot do this.
            IndexError: a range beyond the end.
            InputError, StorageError: everything else.
        """
        try:
            result = persistently(call, self._passes, lambda: ATTEMPTS if self._reads in _contacted else ATTEMPTS_BEFORE_CONTACT)
        except RAISED as error:
            code, _ = answer(error)
            if is_missing(error):
                raise FileNotFoundError(doing) from None
            if code in ("PreconditionFailed", "412"):
                raise FileExistsError(doing) from None
            if code in ("InvalidRange", "416"):
                raise IndexError(doing) from None
            if code == "NotImplemented":
                raise NotImplementedError(doing) from None
            raise explained(error, doing, self._endpoint(), self._reads in _contacted) from None
        _contacted.setdefault(self._reads, set())
        return result

    def _passes(self, error: BaseException) -> bool:
        if answer(error) != ("", 0):
            _contacted.setdefault(self._reads, set())
        return passes(error)

    def _endpoint(self) -> str:
        url = urllib.parse.urlsplit(self._reads.s3.meta.endpoint_url if self._reads._s3 else os.environ.get("AWS_ENDPOINT_URL", "AWS"))
        return urllib.parse.urlunsplit(url._replace(netloc=url.netloc.rpartition("@")[2]))  # whoever puts a password there shall not read it in a log


@functools.cache
def session() -> aiobotocore.session.AioSession:
    """Make what all clients of a process share: the credentials, and the description of S3, which takes a tenth of a second to read."""
    return aiobotocore.session.AioSession()


def _check_environment() -> None:
    """Refuse credentials that no request can carry, before a library quotes them in its error.

    Raises:
        InputError: a variable holds white space, a control character or a character that is not ASCII; the message does not repeat it.
    """
    for name in CREDENTIALS:
        value = os.environ.get(name, "")
        if not all("!" <= char <= "~" for char in value):
            kind = (
                "a line break" if set(value) & set("\r\n") else "a space or control character" if value.isascii() else "a character that is not ASCII"
            )
            raise InputError(f"{name} holds {kind}. It is one word of ASCII characters. Set it again, without quotes, blanks or line breaks")


def _client(connections: int, silence_seconds: int) -> Any:
    _check_environment()
    config: dict[str, Any] = {
        "max_pool_connections": connections,
        "connect_timeout": CONNECT_SECONDS,
        "read_timeout": silence_seconds,
        "retries": {"total_max_attempts": 1},  # asked again here, so that there is one bound and not the product of three
    }
    if "AWS_DEFAULT_REGION" not in os.environ and "AWS_REGION" in os.environ:
        config["region_name"] = os.environ["AWS_REGION"]  # botocore does not look there
    # Other processes write into the same prefixes: a cached listing would hide their objects.
    client = s3fs.S3FileSystem(session=session(), use_listings_cache=False, config_kwargs=config)
    client.retries = 1
    return client


def _split(path: str) -> tuple[str, str]:
    bucket, _, key = path.partition("/")
    if not bucket:
        raise InputError("s3:// needs a bucket: s3://BUCKET/PREFIX")
    return bucket, key
