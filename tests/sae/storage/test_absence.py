"""That something is not there is never concluded from an error: a look that failed is an error, on a disk and in every store."""

import errno
import os

import fsspec
import pytest
from fsspec import AbstractFileSystem
from fsspec.asyn import AsyncFileSystem

from sae.errors import InputError, MonosemError, StorageError
from sae.storage import Place
from sae.storage.remote import RemoteObjects


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path / "store")
    for key in ("plan.json", "receipts/a/000000.json", "receipts/a/000001.json"):
        place.put(key, b"{}")
    return place


def failing(monkeypatch, function: str, code: int, only_below: str) -> None:
    """Let a function of `os` fail for paths that contain `only_below`."""
    original = getattr(os, function)

    def fail(path, *args, **kwargs):
        if only_below in str(path):
            raise OSError(code, os.strerror(code), str(path))
        return original(path, *args, **kwargs)

    monkeypatch.setattr(os, function, fail)


ERRORS = [errno.EIO, errno.EACCES, errno.ESTALE, errno.ELOOP, errno.ENOTCONN]


@pytest.mark.parametrize("code", ERRORS)
@pytest.mark.parametrize("function", ["scandir", "stat"])
def test_a_directory_that_cannot_be_listed_is_an_error_and_not_an_empty_one(place, monkeypatch, function, code):
    failing(monkeypatch, function, code, "receipts")
    for look in (place.list, lambda: place.list("receipts"), lambda: place.entries(partial=True)):
        with pytest.raises(MonosemError, match="receipts|store"):
            look()


@pytest.mark.parametrize("code", ERRORS)
def test_a_file_that_cannot_be_looked_at_is_an_error_and_not_an_absent_one(place, monkeypatch, code):
    failing(monkeypatch, "stat", code, "plan.json")
    for look in (lambda: place.exists("plan.json"), lambda: place.put_new("plan.json", b"other"), place.list):
        with pytest.raises(MonosemError, match=r"plan\.json|store"):
            look()
    monkeypatch.undo()
    assert place.get("plan.json") == b"{}"


def test_a_linked_directory_is_followed(place, tmp_path):
    (tmp_path / "store/receipts").rename(tmp_path / "elsewhere")
    (tmp_path / "store/receipts").symlink_to(tmp_path / "elsewhere")
    assert place.list("receipts") == ["receipts/a/000000.json", "receipts/a/000001.json"]
    assert place.list() == ["plan.json", "receipts/a/000000.json", "receipts/a/000001.json"]


@pytest.mark.parametrize("linked", ["receipts", "receipts/a", "receipts/a/000001.json", ""])
def test_a_link_to_a_disk_that_is_not_mounted_is_an_error(place, tmp_path, linked):
    path = tmp_path / "store" / linked
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "not-mounted" / "there")
    looks = [place.list, lambda: place.list("receipts"), lambda: place.exists("receipts/a/000001.json"), lambda: place.get("receipts/a/000001.json")]
    for look in (*looks, lambda: place.open_buffer("receipts/a/000001.json")):
        with pytest.raises(InputError, match=r"is a link to '.*not-mounted/there', which does not exist"):
            look()
    with pytest.raises(InputError):
        place.put_new("receipts/a/000001.json", b"new")


def test_links_in_a_circle_are_refused_by_name(place, tmp_path):
    (tmp_path / "store/receipts/again").symlink_to(tmp_path / "store")
    with pytest.raises(InputError, match="receipts/again is a link to a directory that holds it"):
        place.list()
    (tmp_path / "store/loop").symlink_to("loop")
    with pytest.raises(InputError, match="links go round in a circle"):
        place.exists("loop")


@pytest.mark.parametrize("below", ["file", "file/below", "file/below/it"])
def test_a_file_in_place_of_a_directory_is_named(tmp_path, below):
    (tmp_path / "file").write_bytes(b"x")
    place = Place(tmp_path / below)
    for attempt in (place.list, lambda: place.exists("plan.json"), lambda: place.get("plan.json"), lambda: place.put("a", b"x")):
        with pytest.raises(InputError, match="file, not a directory"):
            attempt()


def test_a_directory_in_place_of_a_file_is_named(place):
    for read in (place.get, place.open_buffer):
        with pytest.raises(InputError, match="receipts: it is a directory, not a file"):
            read("receipts")
    with pytest.raises(InputError, match="it is a directory"):
        place.put("receipts", b"x")
    with pytest.raises(InputError, match="it is a directory"):
        place.delete("receipts")
    assert len(place.list("receipts")) == 2


def test_a_pipe_is_refused_and_not_waited_for(place, tmp_path):
    os.mkfifo(tmp_path / "store/pipe")
    for read in (place.get, place.open_buffer):
        with pytest.raises(InputError, match="is a device, pipe or socket"):
            read("pipe")


def test_what_vanishes_during_a_listing_is_left_out(place, monkeypatch, tmp_path):
    original = os.stat

    def stat(path, *args, **kwargs):
        if str(path).endswith("000000.json"):
            (tmp_path / "store/receipts/a/000000.json").unlink(missing_ok=True)
        return original(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", stat)
    assert place.list() == ["plan.json", "receipts/a/000001.json"]


class AnswerError(Exception):
    """An answer of a server, as libraries raise it."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status} for https://user:hunter2@host/x?sig=hunter2")
        self.status = status


class Refusing(AbstractFileSystem):
    """A filesystem of fsspec whose server does not answer as it should; `ls` and `info` are all that its kind must have."""

    error: BaseException = OSError("unset")
    cachable = False

    def ls(self, path, detail=True, **kwargs):
        raise self.error

    def info(self, path, **kwargs):
        raise self.error

    def cat_file(self, path, start=None, end=None, **kwargs):
        raise self.error


class RefusingAsync(AsyncFileSystem):
    """The same with coroutines, as most object stores have them."""

    error: BaseException = OSError("unset")
    cachable = False

    async def _ls(self, path, detail=True, **kwargs):
        raise self.error

    async def _info(self, path, **kwargs):
        raise self.error

    async def _cat_file(self, path, start=None, end=None, **kwargs):
        raise self.error


def caused(cause: Exception) -> FileNotFoundError:
    """What several filesystems raise, whatever went wrong."""
    error = FileNotFoundError("nothing here")
    error.__cause__ = cause
    return error


@pytest.fixture(params=[Refusing, RefusingAsync])
def remote(request, monkeypatch):
    def place(error: Exception) -> Place:
        found = Place("memory://remote")
        files = request.param()
        files.error = error
        found._objects = RemoteObjects(files)
        return found

    return place


@pytest.mark.parametrize(
    "error",
    [
        PermissionError("no"),
        OSError("HTTP 500"),
        RuntimeError("Cannot connect"),
        AnswerError(403),
        caused(AnswerError(401)),
        caused(AnswerError(503)),
        caused(OSError("x")),
    ],
    ids=repr,
)
def test_a_remote_store_that_fails_holds_not_nothing(remote, error):
    place = remote(error)
    for look in (place.list, lambda: place.exists("plan.json"), lambda: place.get("plan.json")):
        with pytest.raises((StorageError, InputError)) as raised:
            look()
        assert "does not exist" not in str(raised.value)
        assert "hunter2" not in str(raised.value)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("error", [FileNotFoundError("x"), caused(KeyError("x")), caused(AnswerError(404)), caused(FileNotFoundError("x"))], ids=repr)
def test_a_remote_store_that_says_not_there_is_believed(remote, error):
    place = remote(error)
    assert place.list() == []
    assert not place.exists("plan.json")
    with pytest.raises(InputError, match="does not exist"):
        place.get("plan.json")


def test_objects_that_another_process_wrote_are_seen(tmp_path):
    assert fsspec.url_to_fs("memory://x", use_listings_cache=False)[0].dircache.use_listings_cache is False
    place = Place("memory://fresh")
    assert place._objects._files.storage_options == {"use_listings_cache": False}


def test_an_answer_that_is_no_listing_is_not_an_empty_bucket(monkeypatch, tmp_path):
    """A proxy's page of welcome comes with 200, too."""
    place = Place("s3://bucket/run")
    monkeypatch.setattr(place._objects._reads, "call_s3", lambda *args, **kwargs: {"ResponseMetadata": {"HTTPStatusCode": 200}})
    monkeypatch.setattr(place._objects, "_endpoint", lambda: "http://proxy")
    with pytest.raises(InputError, match="the answer is not that of an S3 server"):
        place.list()
