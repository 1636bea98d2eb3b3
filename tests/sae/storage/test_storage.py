"""A place holds whole objects, on a disk and on real S3 servers alike: never half of one, and it says what is wrong."""

import errno
import importlib.util
import os
import uuid
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest

from sae.errors import InputError, StorageError
from sae.storage import Place, local, s3, sha256_hex
from tests.servers.fixtures import new_bucket


@pytest.fixture(params=["local", "memory", "swift", "moto"])
def place(request, tmp_path, monkeypatch):
    if request.param == "local":
        yield Place(tmp_path / "place")
    elif request.param == "memory":
        yield Place(f"memory://{uuid.uuid4().hex}")
    else:
        for url in new_bucket(request.getfixturevalue(request.param), monkeypatch):
            yield Place(f"{url}/place")


def test_what_is_put_is_read_whole_or_in_part(place):
    place.put("a/b.bin", b"0123456789")
    assert place.get("a/b.bin") == b"0123456789"
    assert place.get("a/b.bin", 2, 5) == b"234"
    assert place.get("a/b.bin", 7) == b"789"
    assert place.get("a/b.bin", 8, 20) == b"89"
    assert place.get("a/b.bin", 10, 12) == b""
    assert place.get("a/b.bin", 3, 3) == b""
    ranges = [("a/b.bin", start, start + 2) for start in range(0, 10, 2)]
    assert list(place.get_many(ranges)) == [b"01", b"23", b"45", b"67", b"89"]
    assert place.open_buffer("a/b.bin").to_pybytes() == b"0123456789"


def test_listing_is_sorted_relative_and_limited_to_a_prefix(place):
    for key in ("b/2", "b/1", "a"):
        place.put(key, b"x")
    assert place.list() == ["a", "b/1", "b/2"]
    assert place.list("b") == ["b/1", "b/2"]
    assert place.child("b").list() == ["1", "2"]
    assert place.list("nothing") == []


def test_entries_have_sizes_and_a_time_and_a_name_that_is_a_prefix_of_another_is_not_its_directory(place):
    place.put("run/a", b"12345")
    place.put("run-2/a", b"")
    [entry] = place.entries("run")
    assert (entry.key, entry.bytes) == ("run/a", 5)
    assert entry.modified > 1.7e9
    assert [entry.bytes for entry in place.entries()] == [0, 5]
    assert place.get("run-2/a") == b""


def test_buffers_of_every_kind_are_written_as_their_bytes(place):
    data = os.urandom(1000)
    place.put("bytes", data)
    place.put("view", memoryview(data))
    place.put("buffer", pa.py_buffer(data))
    assert [place.get(key) for key in ("bytes", "view", "buffer")] == [data] * 3


def test_of_many_writers_of_a_new_object_one_wins(place, request):
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda number: place.put_new("lease.json", b"writer %d" % number), range(8)))
    there = place.get("lease.json")
    assert won[int(there[-1:])], "whose object is there knows it"
    if "local" in request.node.name or "moto" in request.node.name:
        assert won.count(True) == 1  # Swift looks and writes in two steps, and so does fsspec's memory
    assert not place.put_new("lease.json", b"another")
    assert place.put_new("lease.json", there), "what is there is what was to be written: an answer may have been lost"
    assert place.get("lease.json") == there
    assert place.list() == ["lease.json"]


def test_a_disk_without_hard_links_still_lets_one_win(tmp_path, monkeypatch):
    def unsupported(source, target):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(local.os, "link", unsupported)
    place = Place(tmp_path)
    assert place.put_new("a", b"first")
    assert not place.put_new("a", b"second")
    assert place.get("a") == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_large_object_goes_up_in_parts_and_appears_whole(bucket, monkeypatch):
    monkeypatch.setattr(s3, "SINGLE_PUT_BYTES", 1 << 20)
    monkeypatch.setattr(s3, "PART_BYTES", 5 << 20)
    data = os.urandom(12 << 20)
    place = Place(f"{bucket}/large")
    place.put("object", data)
    assert place.get("object") == data
    assert list(place.get_many([("object", 0, 6 << 20), ("object", 6 << 20, None)])) == [data[: 6 << 20], data[6 << 20 :]]
    assert place.unfinished_uploads() == []


def test_a_listing_of_several_pages_is_whole(swift_bucket, monkeypatch):
    place = Place(f"{swift_bucket}/many")
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: place.put(f"{number:04d}", b""), range(60)))
    original = place._objects._reads.call_s3
    monkeypatch.setattr(place._objects._reads, "call_s3", lambda method, **given: original(method, MaxKeys=25, **given))
    assert place.list() == [f"{number:04d}" for number in range(60)]


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


@pytest.mark.parametrize(("url", "extra"), [("gs://bucket/run", "gcs"), ("az://container/run", "azure"), ("abfs://container/run", "azure")])
def test_a_scheme_whose_library_is_missing_names_the_extra(url, extra):
    if importlib.util.find_spec({"gcs": "gcsfs", "azure": "adlfs"}[extra]):
        pytest.skip("it is installed here")
    with pytest.raises(InputError, match=rf"pip install 'monosem\[{extra}\]'"):
        Place(url)


def test_an_unknown_scheme_is_the_users_mistake():
    with pytest.raises(InputError, match="nosuch://"):
        Place("nosuch://bucket/prefix")


def test_sha256_is_the_published_one():
    assert sha256_hex(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
