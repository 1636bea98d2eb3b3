"""A place holds whole objects: never half of one, and says what is wrong."""

import errno
import os

import pytest

from sae.errors import InputError, StorageError
from sae.storage import Place, sha256_hex


@pytest.fixture(params=["local", "memory"])
def place(request, tmp_path):
    return Place(tmp_path / "place" if request.param == "local" else f"memory://{tmp_path.name}")


def test_what_is_put_is_read_whole_or_in_part(place):
    place.put("a/b.bin", b"0123456789")
    assert place.get("a/b.bin") == b"0123456789"
    assert place.get("a/b.bin", 2, 5) == b"234"
    assert place.open_buffer("a/b.bin").to_pybytes() == b"0123456789"


def test_listing_is_sorted_relative_and_limited_to_a_prefix(place):
    for key in ("b/2", "b/1", "a"):
        place.put(key, b"x")
    assert place.list() == ["a", "b/1", "b/2"]
    assert place.list("b") == ["b/1", "b/2"]
    assert place.child("b").list() == ["1", "2"]
    assert place.list("nothing") == []


def test_a_replaced_object_is_the_new_one_and_a_deleted_one_is_gone(place):
    place.put("a", b"old")
    place.put("a", b"new")
    assert place.get("a") == b"new"
    place.delete("a")
    place.delete("a")
    assert not place.exists("a")


def test_json_is_the_same_bytes_for_equal_values(place):
    place.put_json("a.json", {"b": 1, "a": [1.5, "ü"]})
    place.put_json("b.json", {"a": [1.5, "ü"], "b": 1})
    assert place.get("a.json") == place.get("b.json")
    assert place.get_json("a.json") == {"a": [1.5, "ü"], "b": 1}


def test_a_missing_object_names_its_path(place):
    with pytest.raises(InputError, match="nothing/here.*does not exist"):
        place.get("nothing/here")
    with pytest.raises(InputError, match="does not exist"):
        place.open_buffer("nothing/here")


def test_a_damaged_json_object_is_an_error_in_one_line(place):
    place.put("a.json", b"{broken")
    with pytest.raises(InputError, match="not valid JSON"):
        place.get_json("a.json")


def test_a_write_that_fails_leaves_neither_object_nor_remainder(tmp_path, monkeypatch):
    place = Place(tmp_path)
    place.put("kept", b"old")

    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError, match="No space left on device"):
        place.put("kept", b"new")
    with pytest.raises(StorageError, match="No space left on device"):
        place.put("other", b"new")
    monkeypatch.undo()
    assert place.get("kept") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_an_unfinished_write_of_a_killed_process_is_not_listed(tmp_path):
    (tmp_path / "000000.arrow.0123.partial").write_bytes(b"half")
    assert Place(tmp_path).list() == []


def test_no_permission_says_so(tmp_path):
    tmp_path.chmod(0o500)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may write anywhere
    try:
        with pytest.raises(InputError, match="no permission"):
            Place(tmp_path).put("a", b"x")
    finally:
        os.seteuid(user)


def test_an_unknown_scheme_is_the_users_mistake():
    with pytest.raises(InputError, match="nosuch://"):
        Place("nosuch://bucket/prefix")


def test_sha256_is_the_published_one():
    assert sha256_hex(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
