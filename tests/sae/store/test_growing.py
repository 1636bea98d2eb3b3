"""A store is read while it is written: the same batches as later, after waiting where one must."""

import threading
import time

import pytest
import torch

from sae.batches.loader import Batches, batch_order
from sae.corpus.packing import TokenCorpus
from sae.errors import CorruptObjectError, InputError, WorkerError
from sae.storage import Place
from sae.store.growing import GrowingStore, expected_rows
from sae.store.manifest import StorePlan, finish_store, receipt_key, start_store
from sae.store.reader import Store
from sae.store.writer import write_shard

HOOKPOINT = "blocks.0.mlp.hook_post"


def plan_of(corpus: TokenCorpus, **changes) -> StorePlan:
    special = sorted({0, int(corpus.sequences("train", 0, 1)[0, 0])})
    settings = dict(
        subject="planted", subject_digest="s", corpus_digest=corpus.manifest.digest, context_length=32, hookpoints={HOOKPOINT: 4},
        num_sequences=60, sequences_per_shard=4, special_token_ids=special, seed=3,
    )  # fmt: skip
    return StorePlan(**settings | changes)


def write(place: Place, plan: StorePlan, corpus: TokenCorpus, shard: int) -> None:
    first, last = plan.shard_range(shard)
    tokens = corpus.sequences("train", first, last)
    sequences, positions = torch.arange(first, last)[:, None].expand(tokens.shape), torch.arange(32).expand(tokens.shape)
    activations = torch.stack([sequences, positions, sequences % 7, torch.ones_like(sequences)], dim=-1) / 8
    write_shard(place, plan, shard, tokens, {HOOKPOINT: activations})


@pytest.mark.parametrize("tokens_per_sequence", [None, 9])
def test_the_rows_of_every_shard_are_known_before_it_is_written(tmp_path, tiny_corpus, tokens_per_sequence):
    place, plan = Place(tmp_path), plan_of(tiny_corpus, tokens_per_sequence=tokens_per_sequence)
    expected = expected_rows(plan, tiny_corpus)
    start_store(place, plan)
    for shard in range(plan.num_shards):
        write(place, plan, tiny_corpus, shard)
    finish_store(place, plan)
    assert Store(place).shard_rows(HOOKPOINT) == expected
    with pytest.raises(InputError, match="not the corpus of the store's plan"):
        expected_rows(plan_of(tiny_corpus, corpus_digest="other"), tiny_corpus)


def test_batches_read_while_the_harvest_writes_are_those_of_the_finished_store(tmp_path, tiny_corpus, monkeypatch):
    monkeypatch.setattr("sae.batches.order.LEAST_GROUP_SHARDS", 3)
    monkeypatch.setattr("sae.batches.order.GROUP_SHARDS", 3)
    place, plan = Place(tmp_path), plan_of(tiny_corpus)
    start_store(place, plan)
    waits: list[float] = []
    growing = GrowingStore(place, expected_rows(plan, tiny_corpus), waited=waits.append)
    order = batch_order(plan, growing.shard_rows(HOOKPOINT), HOOKPOINT, 50, seed=1).shards(0)

    def harvest() -> None:
        for shard in order:
            time.sleep(0.15)
            write(place, plan, tiny_corpus, shard)
        finish_store(place, plan)

    thread = threading.Thread(target=harvest)
    thread.start()
    arrived = []
    found = {}
    for n, batch in Batches(growing, HOOKPOINT, 50, seed=1, epochs=2).iterate():
        arrived.append(len(place.list("receipts")))
        found[n] = batch
    thread.join()
    assert arrived[0] < plan.num_shards / 2, "the first batches need the first group only"
    assert waits
    finished = Batches(Store(place), HOOKPOINT, 50, seed=1, epochs=2)
    assert found.keys() == set(range(len(finished)))
    assert all(torch.equal(batch, finished.batch(n)) for n, batch in found.items())
    assert growing.manifest == Store(place).manifest


def test_nobody_waits_for_a_harvest_that_failed(tmp_path, tiny_corpus):
    place, plan = Place(tmp_path), plan_of(tiny_corpus)
    start_store(place, plan)
    failed = threading.Event()

    def check() -> None:
        if failed.is_set():
            raise WorkerError("the harvest failed")

    batches = Batches(GrowingStore(place, expected_rows(plan, tiny_corpus), check), HOOKPOINT, 50)
    threading.Timer(0.3, failed.set).start()
    with pytest.raises(WorkerError, match="the harvest failed"):
        next(batches.iterate())


def test_the_iterator_can_be_closed_while_it_waits(tmp_path, tiny_corpus):
    place, plan = Place(tmp_path), plan_of(tiny_corpus)
    start_store(place, plan)
    growing = GrowingStore(place, expected_rows(plan, tiny_corpus))
    batches = Batches(growing, HOOKPOINT, 50)
    needed = {shard for shard, _, _ in batches.order.slices(0)}
    for shard in needed | {shard for shard, _, _ in batches.order.slices(1)} - {order_last(batches)}:
        write(place, plan, tiny_corpus, shard)
    iterator = batches.iterate(prefetch=1)
    threading.Timer(0.3, lambda: None).start()
    if order_last(batches) not in needed:
        next(iterator)
    began = time.monotonic()
    iterator.close()
    assert time.monotonic() - began < 2
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("batches")]


def order_last(batches: Batches) -> int:
    return batches.order.shards(0)[-1]


def test_a_shard_of_other_rows_than_the_plan_says_is_refused(tmp_path, tiny_corpus):
    place, plan = Place(tmp_path), plan_of(tiny_corpus)
    start_store(place, plan)
    write(place, plan, tiny_corpus, 0)
    rows = expected_rows(plan, tiny_corpus)
    growing = GrowingStore(place, [rows[0] + 1, *rows[1:]])
    with pytest.raises(CorruptObjectError, match=rf"says {rows[0]} rows, its plan and corpus say {rows[0] + 1}"):
        growing.wait(HOOKPOINT, [0], threading.Event())
    with pytest.raises(InputError, match=f"{receipt_key(HOOKPOINT, 1)} is not there yet"):
        growing.entry(HOOKPOINT, 1)
