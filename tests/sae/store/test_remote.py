"""A store in an object store: the same batches, every byte verified and asked for once, memory bounded."""

from collections.abc import Iterator

import pytest
import torch

from sae.batches.loader import Batches
from sae.errors import CorruptObjectError
from sae.storage import Place
from sae.store import download, shards
from sae.store.manifest import shard_key
from sae.store.reader import Store
from sae.store.verification import verify_store
from tests.sae.training.stores import CONTEXT_LENGTH, HOOKPOINT, write_store
from tests.servers.fixtures import new_bucket

D_IN, NUM_SHARDS = 64, 8
ROWS_PER_SHARD = 16 * CONTEXT_LENGTH


@pytest.fixture(scope="module")
def activations():
    return torch.arange(NUM_SHARDS * ROWS_PER_SHARD, dtype=torch.float32)[:, None] + torch.arange(D_IN) / D_IN


@pytest.fixture
def remote(moto, monkeypatch, activations) -> Iterator[Place]:
    for url in new_bucket(moto, monkeypatch):
        place = Place(f"{url}/store")
        write_store(place, activations)
        yield place


@pytest.fixture
def small_groups(monkeypatch):
    """Groups of four shards, half of one read ahead, ranges smaller than a shard."""
    monkeypatch.setattr("sae.batches.order.LEAST_GROUP_SHARDS", 4)
    monkeypatch.setattr("sae.batches.order.GROUP_SHARDS", 4)
    shard = ROWS_PER_SHARD * (D_IN * 4 + 16)
    monkeypatch.setattr("sae.batches.read_ahead.READ_AHEAD_BYTES", 2 * shard)
    monkeypatch.setattr(shards, "HELD_BYTES", 7 * shard)
    monkeypatch.setattr(download, "RANGE_BYTES", 40_000)


def test_batches_are_those_of_a_local_store_and_every_byte_is_asked_for_once(swift_bucket, tmp_path, activations, small_groups):
    remote = Place(f"{swift_bucket}/store")
    write_store(remote, activations)
    local = Batches(write_store(Place(tmp_path), activations), HOOKPOINT, 300)
    store = Store(remote)
    most = 0
    for n, batch in Batches(store, HOOKPOINT, 300).iterate():
        assert torch.equal(batch, local.batch(n))
        most = max(most, store.held_bytes)
    size = sum(entry.bytes for entry in store.manifest.shards[HOOKPOINT])
    assert store.downloads.requested_bytes == size
    assert most <= 7 * size / NUM_SHARDS, "a group, half of the next, and what a batch across both keeps open"
    assert store.held_bytes == 0, "an iterator that ended holds nothing"


def test_the_ranks_share_the_bytes_between_them(remote, small_groups):
    size = asked = 0
    parts = []
    for rank in range(4):
        store = Store(remote)
        parts.append(dict(Batches(store, HOOKPOINT, 512).share(rank, 4).iterate()))
        size = sum(entry.bytes for entry in store.manifest.shards[HOOKPOINT])
        asked += store.downloads.requested_bytes
    assert asked == size, "four ranks, four equal shards in a group: each reads its own"
    whole = Batches(Store(remote), HOOKPOINT, 512)
    assert all(torch.equal(torch.cat([part[n] for part in parts]), whole.batch(n)) for n in (0, 5, 13))


@pytest.mark.parametrize("damage", ["shorter", "longer", "flipped", "missing"])
def test_a_damaged_shard_reaches_no_batch_and_the_store_stays_as_it_was(remote, small_groups, damage):
    store = Store(remote)
    key = shard_key(HOOKPOINT, store_order_first(store))
    data = remote.get(key)
    middle = len(data) // 2
    changed = {"shorter": data[:-100], "longer": data + b"more", "flipped": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]}
    if damage == "missing":
        remote.delete(key)
    else:
        remote.put(key, changed[damage])
    before = remote.list()
    if damage == "longer":  # what follows the promised bytes is not read; `verify` names it
        next(Batches(store, HOOKPOINT, 300).iterate())
    else:
        with pytest.raises(CorruptObjectError, match=rf"{key} cannot be trusted, .*: delete .*receipts/.* and run the harvest again"):
            next(Batches(store, HOOKPOINT, 300).iterate())
    [problem] = verify_store(remote)
    assert key in problem
    assert remote.list() == before


def store_order_first(store: Store) -> int:
    return Batches(store, HOOKPOINT, 300).order.shards(0)[0]


def test_foreign_objects_in_the_prefix_are_not_looked_at(remote):
    remote.put(f"shards/{HOOKPOINT}/readme.txt", b"hello")
    remote.put(f"shards/{HOOKPOINT}/000099.arrow", b"not ours")
    store = Store(remote)
    assert store.num_rows(HOOKPOINT) == NUM_SHARDS * ROWS_PER_SHARD
    assert verify_store(remote) == []
