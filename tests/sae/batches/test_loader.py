"""The loader reads exactly the batches of the order, passes errors on, and leaves no thread behind."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from sae.batches import loader
from sae.batches.loader import Batches
from sae.errors import CorruptObjectError, HookpointError, InputError
from sae.storage import Place
from sae.store.manifest import StorePlan, finish_store, shard_key, start_store
from sae.store.reader import Store
from sae.store.writer import write_shard

HOOKPOINT = "blocks.0.mlp.hook_post"
CONTEXT_LENGTH = 16


def make_store(place: Place, num_shards: int = 5, dtype: str = "float16", sequences_per_shard: int = 4) -> Store:
    """Each activation is [sequence, position, 1] / 8."""
    sequences = num_shards * sequences_per_shard
    plan = StorePlan(
        subject="planted", subject_digest="s", corpus_digest="c", context_length=CONTEXT_LENGTH, hookpoints={HOOKPOINT: 3}, dtype=dtype,
        num_sequences=sequences, sequences_per_shard=sequences_per_shard, special_token_ids=[0], seed=0,
    )  # fmt: skip
    start_store(place, plan)
    tokens = np.ones((sequences, CONTEXT_LENGTH), np.uint32)
    tokens[:, 0] = 0
    sequence, position = torch.meshgrid(torch.arange(sequences), torch.arange(CONTEXT_LENGTH), indexing="ij")
    activations = torch.stack([sequence, position, torch.ones_like(sequence)], dim=-1) / 8
    for shard in range(num_shards):
        part = slice(*plan.shard_range(shard))
        write_shard(place, plan, shard, tokens[part], {HOOKPOINT: activations[part]})
    finish_store(place, plan)
    return Store(place)


@pytest.fixture
def store(tmp_path):
    return make_store(Place(tmp_path))


def reading_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("batches")]


@pytest.mark.parametrize("dtype", ["float16", "float32", "bfloat16"])
def test_a_batch_is_its_slices_in_float32(tmp_path, dtype):
    store = make_store(Place(tmp_path), dtype=dtype)
    batches = Batches(store, HOOKPOINT, batch_size=32, seed=4)
    for n in range(batches.num_batches):
        slices = batches.order.slices(n)
        expected = np.concatenate([store.rows(HOOKPOINT, *part).astype(np.float32) for part in slices])
        batch = batches.batch(n)
        assert batch.dtype == torch.float32
        np.testing.assert_array_equal(batch.numpy(), expected)


def test_an_epoch_gives_every_token_once(store):
    batches = Batches(store, HOOKPOINT, batch_size=30, seed=0)
    rows = torch.cat([batch for _, batch in batches.iterate()]) * 8
    assert len(batches) == 10
    assert {(int(s), int(p)) for s, p, _ in rows} == {(s, p) for s in range(20) for p in range(1, CONTEXT_LENGTH)}


def test_a_resumed_run_continues_with_exactly_the_next_batch(store):
    batches = Batches(store, HOOKPOINT, batch_size=16, seed=0, epochs=3)
    whole = dict(batches.iterate())
    assert list(whole) == list(range(3 * batches.batches_per_epoch))
    resumed = dict(Batches(Store(store.place), HOOKPOINT, batch_size=16, seed=0, epochs=3).iterate(start=20, stop=45))
    assert list(resumed) == list(range(20, 45))
    assert all(torch.equal(resumed[n], whole[n]) for n in resumed)
    assert not torch.equal(whole[0], whole[batches.batches_per_epoch])


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 7])
def test_the_shares_of_all_ranks_laid_one_after_the_other_are_the_batch(store, world_size):
    batches = Batches(store, HOOKPOINT, batch_size=30, seed=2, epochs=2)
    shares = [batches.share(rank, world_size) for rank in range(world_size)]
    assert [share.span for share in shares] == [(rank * 30 // world_size, (rank + 1) * 30 // world_size) for rank in range(world_size)]
    for n in (0, 7, 19):
        assert torch.equal(torch.cat([share.batch(n) for share in shares]), batches.batch(n))
    with pytest.raises(ValueError, match="rank 4 of 4"):
        batches.share(4, 4)


def test_the_origin_of_a_row_is_where_it_was_read(store):
    batches = Batches(store, HOOKPOINT, batch_size=30, seed=2)
    for n in (0, 9):
        batch = batches.batch(n)
        for row in range(30):
            shard, at = batches.share(1, 2).origin(n, row)
            np.testing.assert_array_equal(store.rows(HOOKPOINT, shard, at, at + 1)[0].astype(np.float32), batch[row].numpy())
    with pytest.raises(IndexError, match="row 30 of a batch of 30"):
        batches.origin(0, 30)


def test_the_threads_read_no_further_ahead_than_told_and_end_with_the_iterator(store):
    batches = Batches(store, HOOKPOINT, batch_size=4, seed=0)
    read = []
    original = batches._read
    batches._read = lambda numbers, ended: read.extend(numbers) or original(numbers, ended)
    iterator = batches.iterate(prefetch=2)
    next(iterator)
    time.sleep(0.3)
    assert reading_threads()
    assert sorted(read) == [0, 1, 2]  # given out, and two ahead
    iterator.close()
    assert reading_threads() == []
    assert list(Batches(store, HOOKPOINT, batch_size=100).iterate())[-1][0] == 2
    assert reading_threads() == []


def test_an_error_arrives_in_its_place_and_ends_the_thread(store):
    shard = Batches(store, HOOKPOINT, batch_size=60).order.slices(0)[0][0]
    key = shard_key(HOOKPOINT, shard)
    store.place.put(key, store.place.get(key)[:-8])
    iterator = Batches(Store(store.place), HOOKPOINT, batch_size=60, seed=0).iterate()
    with pytest.raises(CorruptObjectError, match=key):
        next(iterator)
    assert reading_threads() == []


def test_a_local_shard_is_verified_once_however_often_and_by_however_many_it_is_opened(tmp_path, monkeypatch):
    verified = []
    from sae.store import reader, shards

    original = reader.checksum
    monkeypatch.setattr(reader, "checksum", lambda buffer: verified.append(1) or original(buffer))
    monkeypatch.setattr(shards, "MOST_OPEN", 6)
    store = make_store(Place(tmp_path), num_shards=20, sequences_per_shard=1)
    for _ in Batches(store, HOOKPOINT, batch_size=20, seed=0, epochs=2).iterate():
        pass
    assert len(verified) == 20


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def test_torch_computes_alone_in_threads_that_read_and_as_before_in_all_others(two_threads, store, monkeypatch):
    found = []
    original = loader.copy_rows
    monkeypatch.setattr(loader, "copy_rows", lambda wanted: (found.append(torch.get_num_threads()), original(wanted)))
    batches = Batches(store, HOOKPOINT, batch_size=10)
    ahead = dict(batches.iterate(stop=4))
    assert set(found) == {1}
    assert torch.get_num_threads() == 2
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 2
    for n, batch in ahead.items():
        assert torch.equal(batches.batch(n), batch)
    assert found[-1] == 2  # here a copy has to be cut


def test_what_cannot_be_is_an_error(store):
    with pytest.raises(InputError, match=r"holds 300 rows at .*, fewer than one batch of 301"):
        Batches(store, HOOKPOINT, batch_size=301)
    with pytest.raises(HookpointError, match="no hookpoint"):
        Batches(store, "blocks.9", batch_size=10)
    with pytest.raises(IndexError, match="batch 30 of 30"):
        Batches(store, HOOKPOINT, batch_size=10).batch(30)


def test_batches_mix_sequences_nearly_as_well_as_a_shuffle_of_everything(tmp_path):
    # 16 shards of 16 sequences: a batch of 240 rows drawn from all 3,840 rows would hold 240 / 256 of a row of each sequence.
    store = make_store(Place(tmp_path), num_shards=16, sequences_per_shard=16)
    batches = Batches(store, HOOKPOINT, batch_size=240, seed=0)
    distinct = [len({int(s) for s in batch[:, 0] * 8}) for _, batch in batches.iterate()]
    draw = np.random.default_rng(0)
    ideal = [len(set(draw.permutation(np.repeat(np.arange(256), 15))[:240])) for _ in range(50)]
    assert np.mean(distinct) >= 0.97 * np.mean(ideal)
