"""What a store's records promise and its storage does not hold is noticed by a listing, and made again to the same bytes or not at all."""

import numpy as np
import pytest
import torch

from sae.errors import PlanError, StorageError
from sae.storage import Place
from sae.store.lost import forget_lost, lost_receipts
from sae.store.manifest import MANIFEST_KEY, missing_shards, read_manifest, receipt_key, shard_key, tokens_key
from sae.store.verification import verify_store
from sae.store.writer import write_shard
from tests.sae.store.forging import CONTEXT_LENGTH, D_IN, HOOKPOINT, write_small_store


@pytest.fixture
def store(place_url):
    return write_small_store(Place(place_url))


LOSSES = {
    "a shard": lambda place: place.delete(shard_key(HOOKPOINT, 1)),
    "half a shard": lambda place: place.put(shard_key(HOOKPOINT, 1), place.get(shard_key(HOOKPOINT, 1))[:500]),
    "all of a shard but its name": lambda place: place.put(shard_key(HOOKPOINT, 1), b""),
    "a shard's end": lambda place: place.put(shard_key(HOOKPOINT, 1), place.get(shard_key(HOOKPOINT, 1))[:-1]),
    "sequences": lambda place: place.delete(tokens_key(1)),
    "half of the sequences": lambda place: place.put(tokens_key(1), place.get(tokens_key(1))[:100]),
}


@pytest.mark.parametrize("finished", [True, False])
def test_each_loss_is_found_by_a_listing_and_nothing_else_is(store, finished):
    place, plan = store.place, store.plan
    if not finished:
        place.delete(MANIFEST_KEY)
    assert lost_receipts(place, plan) == []
    for lose in LOSSES.values():
        whole = {key: place.get(key) for key in (shard_key(HOOKPOINT, 1), tokens_key(1))}
        lose(place)
        assert lost_receipts(place, plan) == [receipt_key(HOOKPOINT, 1)]
        for key, data in whole.items():
            place.put(key, data)
    place.delete(receipt_key(HOOKPOINT, 2))
    assert lost_receipts(place, plan) == ([receipt_key(HOOKPOINT, 2)] if finished else [])


def again(place, plan, change=0.0):
    """Harvest the missing shards as `write_small_store` does."""
    promised = read_manifest(place).shards[HOOKPOINT]
    for shard in missing_shards(place, plan):
        tokens = np.tile(np.arange(CONTEXT_LENGTH, dtype=np.uint32), (4, 1))
        values = torch.randn(4, CONTEXT_LENGTH, D_IN, generator=torch.Generator().manual_seed(shard)) + change
        write_shard(place, plan, shard, tokens, {HOOKPOINT: values}, promised={HOOKPOINT: promised[shard]})


def test_a_finished_store_that_lost_shards_becomes_the_same_store_again(tmp_path):
    store = write_small_store(Place(tmp_path))
    place, plan = store.place, store.plan
    whole = {key: place.get(key) for key in place.list()}
    for key in (shard_key(HOOKPOINT, 0), tokens_key(0), shard_key(HOOKPOINT, 2), receipt_key(HOOKPOINT, 2)):
        place.delete(key)
    assert forget_lost(place, plan) == missing_shards(place, plan) == [0, 2]
    assert forget_lost(place, plan) == [0, 2], "also after a kill between the two"
    again(place, plan)
    assert {key: place.get(key) for key in place.list()} == whole
    assert verify_store(place) == []


def test_what_comes_out_otherwise_than_the_manifest_says_is_not_put(tmp_path):
    store = write_small_store(Place(tmp_path))
    store.place.delete(shard_key(HOOKPOINT, 1))
    forget_lost(store.place, store.plan)
    before = store.place.list()
    with pytest.raises(PlanError, match=r"000001\.arrow is lost, and what was harvested in its place has other bytes than the manifest lists"):
        again(store.place, store.plan, change=1.0)
    assert store.place.list() == before


def test_nothing_is_lost_where_the_listing_failed_or_lags_behind(tmp_path, monkeypatch):
    store = write_small_store(Place(tmp_path))
    entries = Place.entries
    monkeypatch.setattr(Place, "entries", lambda place: [entry for entry in entries(place) if "000001" not in entry.key])
    assert lost_receipts(store.place, store.plan) == [], "what a listing lacks is asked for by name"

    def fail(place):
        raise StorageError("the listing failed")

    monkeypatch.setattr(Place, "entries", fail)
    with pytest.raises(StorageError):
        forget_lost(store.place, store.plan)
    assert store.place.exists(receipt_key(HOOKPOINT, 1))
