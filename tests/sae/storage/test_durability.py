"""What was written is on the disk when `put` returns: the file, its name, and the directories above it."""

import errno
import os

import pytest

from sae.errors import InputError, StorageError
from sae.storage import Place


@pytest.fixture
def synced(monkeypatch):
    """The paths that were synced, in order, and the renames between them."""
    events = []
    fsync, replace, link = os.fsync, os.replace, os.link
    monkeypatch.setattr(os, "fsync", lambda descriptor: (fsync(descriptor), events.append(os.readlink(f"/proc/self/fd/{descriptor}"))))
    monkeypatch.setattr(os, "replace", lambda source, target: (replace(source, target), events.append("renamed")))
    monkeypatch.setattr(os, "link", lambda source, target: (link(source, target), events.append("renamed")))
    return events


@pytest.mark.parametrize("write", ["put", "put_new"])
def test_a_file_is_synced_before_its_name_and_the_name_before_the_write_returns(tmp_path, synced, write):
    getattr(Place(tmp_path / "run"), write)("a/b/object", b"x")
    made = [str(tmp_path), str(tmp_path / "run"), str(tmp_path / "run/a")]
    assert [synced[0], *synced[1:3]] == made, "each new directory is synced into the one above it"
    assert synced[3].startswith(str(tmp_path / "run/a/b/object."))
    assert synced[4:] == ["renamed", str(tmp_path / "run/a/b")]
    del synced[:]
    getattr(Place(tmp_path / "run"), write)("a/b/second", b"x")
    assert synced[1:] == ["renamed", str(tmp_path / "run/a/b")]


def test_a_filesystem_that_cannot_sync_directories_is_taken_as_it_is(tmp_path, monkeypatch):
    fsync = os.fsync

    def refuse(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    Place(tmp_path).put("a/object", b"x")
    assert Place(tmp_path).get("a/object") == b"x"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (errno.EIO, StorageError),
        (errno.ENOSPC, StorageError),
        (errno.EDQUOT, StorageError),
        (errno.ESTALE, StorageError),
        (errno.EROFS, StorageError),  # a disk also becomes read-only under a run that has long been writing to it
        (errno.ENAMETOOLONG, InputError),
        (errno.EPERM, InputError),
    ],
)
@pytest.mark.parametrize("function", ["mkdir", "fsync", "open", "replace"])
def test_a_write_that_fails_at_any_step_is_one_line_that_names_the_object(tmp_path, monkeypatch, function, code, error):
    def fail(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    place = Place(tmp_path / "run")
    if function == "open":
        monkeypatch.setattr("builtins.open", fail)
    else:
        monkeypatch.setattr(os, function, fail)
    with pytest.raises(error, match=r"run/object \(1 bytes\)") as raised:
        place.put("object", b"x")
    monkeypatch.undo()
    assert "\n" not in str(raised.value)
    assert not [path for path in (tmp_path / "run").glob("*.partial")]


def test_a_directory_that_another_process_makes_meanwhile_is_no_error(tmp_path, monkeypatch):
    """Two workers of a new store make its directories at once."""
    mkdir = os.mkdir

    def overtaken(path, *args, **kwargs):
        try:
            mkdir(path, *args, **kwargs)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            raise

    monkeypatch.setattr(os, "mkdir", overtaken)
    Place(tmp_path / "run").put("a/b/object", b"x")
    assert Place(tmp_path / "run").get("a/b/object") == b"x"
