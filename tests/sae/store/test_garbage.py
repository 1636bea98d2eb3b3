"""What belongs to nothing is found and deleted; what a manifest, a receipt or a stranger owns is left as it is."""

import pytest
import torch

from jobs.cli import main
from sae.errors import InputError, LeaseError, StorageError
from sae.storage import Place
from sae.storage.lease import hold_lease
from sae.storage.s3 import S3Objects
from sae.store.garbage import delete_garbage, find_garbage
from sae.store.manifest import MANIFEST_KEY, finish_store, receipt_key, shard_key, tokens_key
from sae.store.reader import Store
from sae.store.verification import verify_store
from tests.sae.training.stores import HOOKPOINT, planted_activations, planted_directions, write_store


@pytest.fixture
def store(place_url) -> Store:
    """Four shards."""
    torch.manual_seed(0)
    return write_store(Place(place_url), planted_activations(64 * 64, planted_directions(8, 4)))


def contents(place: Place) -> dict[str, bytes]:
    return {entry.key: place.get(entry.key) for entry in place.entries(partial=True)}


def start_upload(place: Place, key: str, size: int) -> None:
    objects = place._objects
    assert isinstance(objects, S3Objects)
    path = objects._upload
    upload = path(place._full(key), "create_multipart_upload")["UploadId"]
    path(place._full(key), "upload_part", Body=b"x" * size, PartNumber=1, UploadId=upload)


def test_a_finished_store_holds_no_garbage(store):
    found = find_garbage(store.place)
    assert (list(found.litter), list(found.foreign)) == ([], [])


def test_litter_of_every_kind_is_found_counted_and_deleted(store, capsys):
    place, remote = store.place, store.place.local_path() is None
    whole = contents(place)
    planted = {
        (shard_key(HOOKPOINT, 4), "orphan"): 100,  # beyond the plan
        (shard_key("blocks.7.mlp.hook_post", 0), "orphan"): 50,  # of no hookpoint of the plan
        (tokens_key(9), "orphan"): 7,
        ("lease/000003.json", "lease"): 30,
    }
    for (key, _), size in planted.items():
        place.put(key, b"x" * size)
    foreign = ["notes/by-hand.txt"]
    if remote:
        start_upload(place, shard_key(HOOKPOINT, 2), 5 << 20)
        start_upload(Place(f"{place.url}-elsewhere"), "other", 10)
        planted[shard_key(HOOKPOINT, 2), "upload"] = 5 << 20
    else:
        place.put("mine.0123.partial", b"a stranger's file with such a name")
        foreign.insert(0, "mine.0123.partial")
        name = f"{shard_key(HOOKPOINT, 1)}.0123.partial"
        place.local_path(name).write_bytes(b"half")
        planted[name, "left-over"] = 4
    place.put("notes/by-hand.txt", b"mine")
    others = {key: place.get(key) for key in foreign}

    found = find_garbage(place)
    assert {(litter.key, litter.kind): litter.bytes for litter in found.litter} == planted
    assert found.bytes == sum(planted.values())
    assert [entry.key for entry in found.foreign] == foreign
    assert main(["clean", place.url]) == 0
    said = capsys.readouterr().out
    assert f"{sum(planted.values()):,} bytes. Nothing was deleted: --delete does it" in said
    assert "notes/by-hand.txt (left alone" in said

    place.delete("lease/000003.json")  # no lease at all can be read from thirty x
    assert main(["clean", place.url, "--delete"]) == 0
    assert "bytes are free again" in capsys.readouterr().out
    assert contents(place) == whole | others
    assert place.unfinished_uploads() == []
    assert verify_store(store.place) == []
    assert main(["clean", place.url]) == 0
    assert "nothing to clean" in capsys.readouterr().out


def test_an_unfinished_store_keeps_every_shard_of_its_plan_with_or_without_a_receipt(store):
    place = store.place
    whole = contents(place)
    place.delete(MANIFEST_KEY)
    place.delete(receipt_key(HOOKPOINT, 2))
    found = delete_garbage(place)
    assert (list(found.litter), place.list("lease")) == ([], [])
    place.put(receipt_key(HOOKPOINT, 2), whole[receipt_key(HOOKPOINT, 2)])
    finish_store(place, store.plan)
    assert contents(place) == whole


def without_receipts(place, tmp_path):
    for key in place.list("receipts"):
        place.delete(key)


def receipts_behind_a_link(place, tmp_path):
    place.local_path("receipts").rename(tmp_path / "elsewhere")
    place.local_path("receipts").symlink_to(tmp_path / "elsewhere")


def receipts_behind_a_link_to_nothing(place, tmp_path):
    place.local_path("receipts").rename(tmp_path / "elsewhere")
    place.local_path("receipts").symlink_to(tmp_path / "nothing")


def plan_of_another_store(place, tmp_path):
    other = write_store(Place(tmp_path / "other"), planted_activations(64 * 16, planted_directions(8, 4)))
    place.put("plan.json", other.place.get("plan.json"))


def plan_and_manifest_of_another_store(place, tmp_path):
    other = write_store(Place(tmp_path / "other"), planted_activations(64 * 16, planted_directions(8, 4)))
    for key in ("plan.json", MANIFEST_KEY):
        place.put(key, other.place.get(key))


@pytest.mark.parametrize(
    "disorder",
    [without_receipts, receipts_behind_a_link, receipts_behind_a_link_to_nothing, plan_of_another_store, plan_and_manifest_of_another_store],
)
def test_no_disorder_of_what_proves_a_shard_deletes_it(tmp_path, disorder):
    torch.manual_seed(0)
    place = write_store(Place(tmp_path / "store"), planted_activations(64 * 64, planted_directions(8, 4))).place
    if disorder is not plan_and_manifest_of_another_store:
        place.delete(MANIFEST_KEY)
    disorder(place, tmp_path)
    shards = {path: path.read_bytes() for path in (tmp_path / "store/shards").rglob("*.arrow")}
    main(["clean", place.url, "--delete"])
    assert shards == {path: path.read_bytes() for path in (tmp_path / "store/shards").rglob("*.arrow")}


def test_a_listing_that_fails_deletes_nothing(store, monkeypatch, capsys):
    place = store.place
    place.delete(MANIFEST_KEY)
    whole = contents(place)

    def fails(self, prefix="", partial=False):
        raise StorageError("could not list: Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(Place, "entries", fails)
        assert main(["clean", place.url, "--delete"]) == 1
    assert "Input/output error" in capsys.readouterr().err
    assert contents(place) == whole


def test_what_nothing_explains_stops_the_deletion_and_is_named(store, capsys):
    place = store.place
    place.put(shard_key(HOOKPOINT, 9), b"x" * 10)
    place.delete(MANIFEST_KEY)
    before = contents(place)
    assert main(["clean", place.url]) == 0
    assert "the plan of this unfinished store knows no such shard" in capsys.readouterr().out
    assert main(["clean", place.url, "--delete"]) == 2
    assert f"nothing was deleted in {place.url}: 1 object of 10 bytes" in capsys.readouterr().err
    assert contents(place) == before


def test_a_store_that_is_being_filled_is_not_cleaned(store):
    store.place.put(shard_key(HOOKPOINT, 4), b"x")
    with hold_lease(store.place), pytest.raises(LeaseError, match="being filled by another run"):
        delete_garbage(store.place)
    assert store.place.exists(shard_key(HOOKPOINT, 4))


def test_where_it_cannot_be_told_what_is_needed_nothing_is_touched(store):
    store.place.put(MANIFEST_KEY, b"{}")
    before = contents(store.place)
    for look in (find_garbage, delete_garbage):
        with pytest.raises(InputError):
            look(store.place)
    with pytest.raises(InputError, match="holds no store"):
        delete_garbage(store.place.child("shards"))
    assert contents(store.place) == before
