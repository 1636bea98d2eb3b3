"""A harvest ends in the same store, whoever did the work and however often it was killed."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ray import cloudpickle

import sae.store.harvest
from sae.errors import ConfigError, CorruptObjectError, HookpointError, InputError, LeaseError, PlanError
from sae.execution import InProcess, QueueOptions
from sae.storage import Place
from sae.storage.lease import hold_lease
from sae.store.harvest import HarvestConfig, HarvestWorker, SubjectProbe, fill_store, harvest, make_plan
from sae.store.manifest import StorePlan, finish_store, missing_shards, start_store
from sae.store.reader import Store
from sae.store.verification import verify_store
from sae.subject.model import Subject, SubjectConfig
from services.pool.ray_pool import RayPool

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a worker process cannot import the tests
MLP, RESID = "blocks.0.mlp.hook_post", "blocks.0.hook_resid_post"
CONFIG = HarvestConfig(
    hookpoints=[MLP, RESID], tokens_per_sequence=20, num_sequences=70, sequences_per_shard=16, sequences_per_forward=6, seed=3, num_workers=2,
    pool=QueueOptions(num_cpus=0.5),
)  # fmt: skip


class Watcher:
    """A monitor that remembers, and interrupts the harvest after so many tokens."""

    def __init__(self, interrupt_at: float = float("inf")) -> None:
        self.counters: dict[str, float] = {}
        self.observed: dict[str, list[float]] = {}
        self.stages: list[tuple[str, int, int]] = []
        self.interrupt_at = interrupt_at

    def add(self, metric: str, amount: float, /, **labels: str) -> None:
        name = " ".join([metric, *labels.values()])
        self.counters[name] = self.counters.get(name, 0) + amount

    def set(self, metric: str, value: float, /, **labels: str) -> None:
        self.observed.setdefault(metric, []).append(value)

    def progress(self, stage: str, done: int, total: int) -> None:
        self.stages.append((stage, done, total))
        if done >= self.interrupt_at:
            raise KeyboardInterrupt


class KilledTwice(HarvestWorker):
    """Dies in shard 3 before its forward passes are done, and in shard 4 between the shard and its receipt; each once."""

    def __init__(self, *given):
        super().__init__(*given)
        self.place, self.running = DeadlyPlace(self.place.url), threading.local()
        self.activations, self.subject.activations = self.subject.activations, self.dying_activations

    def run(self, shard):
        self.running.shard, self.running.passes = shard, 0
        return super().run(shard)

    def dying_activations(self, tokens, hookpoints):
        self.running.passes += 1
        if self.running.shard == 3 and self.running.passes == 2:
            die_once(self.place, "forward")
        return self.activations(tokens, hookpoints)


class DeadlyPlace(Place):
    def put(self, key, data):
        super().put(key, data)
        if key == f"shards/{MLP}/000004.arrow":
            die_once(self, "receipt")


def die_once(place: Place, name: str) -> None:
    marker = place.local_path().with_name(f"killed-{name}")
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def harvest_here(place: Place, plan: StorePlan, corpus, subject: SubjectConfig, shards=None) -> None:
    """What a harvest does, without Ray and one shard after another."""
    start_store(place, plan)
    worker = HarvestWorker(plan, corpus.place.url, place.url, subject)
    for shard in range(plan.num_shards) if shards is None else shards:
        worker.run(shard)


@pytest.fixture(scope="module")
def subject(tiny_subject_directory) -> SubjectConfig:
    return SubjectConfig(model=str(tiny_subject_directory))


@pytest.fixture(scope="module")
def facts(subject):
    return SubjectProbe(subject).run([MLP, RESID])


@pytest.fixture(scope="module")
def plan(tiny_corpus, subject, facts) -> StorePlan:
    return make_plan(CONFIG, tiny_corpus, subject, facts)


@pytest.fixture(scope="module")
def store(tmp_path_factory, tiny_corpus, subject, plan) -> Store:
    """What every harvest of this plan must give."""
    place = Place(tmp_path_factory.mktemp("store"))
    harvest_here(place, plan, tiny_corpus, subject)
    finish_store(place, plan)
    return Store(place)


def test_rows_are_the_subjects_activations_at_their_tokens(store, tiny_corpus, subject):
    model = Subject.load(subject)
    tokens = tiny_corpus.sequences("train", 0, CONFIG.num_sequences)
    expected = model.activations(torch.from_numpy(tokens.astype(np.int64)), [MLP, RESID])
    for hookpoint in (MLP, RESID):
        assert store.num_rows(hookpoint) == sum(min(20, int((~np.isin(row, store.plan.special_token_ids)).sum())) for row in tokens)
        for shard, rows in enumerate(store.shard_rows(hookpoint)):
            table = store.table(hookpoint, shard)
            at = np.array(table["sequence_id"]), np.array(table["position"])
            np.testing.assert_array_equal(tokens[at], np.array(table["token_id"]))
            assert not np.isin(tokens[at], store.plan.special_token_ids).any()
            found = store.rows(hookpoint, shard, 0, rows).astype(np.float32)
            np.testing.assert_allclose(found, expected[hookpoint].numpy()[at], rtol=1e-3, atol=1e-4)


@pytest.mark.ray
def test_resumed_by_more_workers_and_killed_twice_it_is_the_same_store(ray_cluster, tmp_path, monkeypatch, store, tiny_corpus, subject, plan):
    monkeypatch.chdir(tmp_path)
    mine = Place("store")
    harvest_here(mine, plan, tiny_corpus, subject, shards=[1, 2])
    monkeypatch.setattr(sae.store.harvest, "HarvestWorker", KilledTwice)
    watcher = Watcher()
    manifest = harvest(CONFIG, tiny_corpus.place.url, "store", subject, RayPool(watcher))
    assert {path.name for path in tmp_path.glob("killed-*")} == {"killed-forward", "killed-receipt"}
    assert watcher.counters["monosem_worker_restarts_total"] == 2
    assert manifest == store.manifest
    assert mine.list() == store.place.list()
    assert [mine.get(key) for key in mine.list()] == [store.place.get(key) for key in mine.list()]
    assert verify_store(mine) == []

    total = 70 * 32
    assert watcher.stages[0] == ("harvest/tokens", 2 * 16 * 32, total)
    assert watcher.stages[-1] == ("harvest/tokens", total, total)
    assert watcher.counters["monosem_harvest_tokens_total"] == total - 2 * 16 * 32
    assert watcher.counters["monosem_shards_total committed"] == 3
    assert watcher.counters["monosem_shards_total retried"] >= 2  # what else the dead workers held is done again, too
    assert "monosem_shards_total failed" not in watcher.counters
    assert watcher.observed["monosem_harvest_queue_shards"] == [3, 2, 1, 0]
    assert len(watcher.observed["monosem_store_put_seconds"]) >= 5  # two hookpoints of three shards, of which one was there after the kill


@pytest.mark.ray
def test_an_interrupted_driver_leaves_whole_shards_and_continues_with_one_worker(ray_cluster, tmp_path, store, tiny_corpus, subject, plan):
    alone = CONFIG.model_copy(update={"num_workers": 1})
    given = (alone, plan, tiny_corpus.place.url, str(tmp_path / "store"), subject)
    with pytest.raises(KeyboardInterrupt):
        fill_store(*given, RayPool(Watcher(interrupt_at=2 * 16 * 32)))
    place = Place(tmp_path / "store")
    there = plan.num_shards - len(missing_shards(place, plan))
    assert there >= 2
    assert not place.exists("manifest.json")
    harvest_here(place, plan, tiny_corpus, subject, shards=missing_shards(place, plan))

    # Whole, it needs no worker; finished, it is left alone; of another plan, it is refused.
    assert fill_store(*given) == store.manifest
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*")}
    again = Watcher()
    assert fill_store(*given, RayPool(again)) == store.manifest
    assert again.stages == [("harvest/tokens", 70 * 32, 70 * 32)]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*")} == before
    with pytest.raises(PlanError, match=r"another plan: seed \(there 3, now 4\)\. Choose another output"):
        fill_store(alone, plan.model_copy(update={"seed": 4}), *given[2:])


def test_a_worker_with_several_shards_at_once_leaves_the_same_bytes(tmp_path, store, tiny_corpus, subject, plan):
    place = Place(tmp_path)
    start_store(place, plan)
    worker = HarvestWorker(plan, tiny_corpus.place.url, place.url, subject)
    with ThreadPoolExecutor(3) as threads:
        reports = list(threads.map(worker.run, range(plan.num_shards)))
    assert [report.shard for report in reports] == list(range(plan.num_shards))
    assert finish_store(place, plan) == store.manifest
    assert worker._memory.qsize() <= 3  # buffers serve again and again


def test_a_store_that_another_harvest_fills_is_refused_and_left_as_it_is(tmp_path, tiny_corpus, subject, plan):
    place = Place(tmp_path / "store")
    other_plan = plan.model_copy(update={"seed": 4})
    with hold_lease(place):
        start_store(place, other_plan)
        before = {key: place.get(key) for key in place.list()}
        with pytest.raises(LeaseError, match=rf"is being filled by another run, process {os.getpid()} on"):
            fill_store(CONFIG, plan, tiny_corpus.place.url, place.url, subject)
        assert {key: place.get(key) for key in place.list()} == before
    with pytest.raises(PlanError, match="seed"):
        fill_store(CONFIG, plan, tiny_corpus.place.url, place.url, subject)
    assert place.list("lease") == []


def test_special_tokens_may_reach_beyond_float16(tmp_path, tiny_corpus, subject, plan, monkeypatch):
    # Large models have activations of many thousands at BOS, which are never stored.
    worker = HarvestWorker(plan, tiny_corpus.place.url, str(tmp_path), subject)
    original = worker.subject.activations

    def with_huge_bos(tokens, hookpoints):
        return {name: found.index_fill(1, torch.tensor([0]), 1e6) for name, found in original(tokens, hookpoints).items()}

    monkeypatch.setattr(worker.subject, "activations", with_huge_bos)
    assert worker.run(0).rows > 0


def test_an_unknown_hookpoint_lists_near_ones(subject):
    with pytest.raises(HookpointError, match=r"no hookpoint 'blocks\.0\.mlp\.hook_pots'; near ones: .*hook_post"):
        SubjectProbe(subject).run(["blocks.0.mlp.hook_pots"])


def test_a_corpus_that_does_not_fit_is_refused(tiny_corpus, subject, facts):
    with pytest.raises(InputError, match="another tokenizer"):
        make_plan(CONFIG, tiny_corpus, subject, replace(facts, tokenizer_digest="other"))
    with pytest.raises(InputError, match=r"sequences of 32 tokens, .* takes at most 16"):
        make_plan(CONFIG, tiny_corpus, subject, replace(facts, context_length=16))
    with pytest.raises(InputError, match=r"num_sequences asks for 1,000,000"):
        make_plan(CONFIG.model_copy(update={"num_sequences": 10**6}), tiny_corpus, subject, facts)


def test_a_subject_that_changed_meanwhile_is_refused(tmp_path, tiny_corpus, subject, plan):
    with pytest.raises(PlanError, match="changed while it was harvested"):
        HarvestWorker(plan.model_copy(update={"subject_digest": "other"}), tiny_corpus.place.url, str(tmp_path), subject)
    with pytest.raises(PlanError, match="start again with one corpus"):
        HarvestWorker(plan.model_copy(update={"corpus_digest": "other"}), tiny_corpus.place.url, str(tmp_path), subject)


def test_a_finished_store_that_lost_objects_gets_them_again_and_is_not_called_done(tmp_path, tiny_corpus, subject, plan, store):
    class Noting(InProcess):
        def run(self, worker, arguments, tasks, *options):
            made.extend(tasks)
            return super().run(worker, arguments, tasks, *options)

    place, made = Place(tmp_path / "store"), []
    for key in store.place.list():
        place.put(key, store.place.get(key))
    fill_store(CONFIG, plan, tiny_corpus.place.url, place.url, subject, Noting())
    assert made == []
    for key in (f"shards/{MLP}/000001.arrow", "tokens/000003.arrow", f"receipts/{RESID}/000004.json"):
        place.delete(key)
    watcher = Watcher()
    assert fill_store(CONFIG, plan, tiny_corpus.place.url, place.url, subject, Noting(watcher)) == store.manifest
    assert made == [1, 3, 4]
    assert watcher.stages[-1][1] == watcher.stages[-1][2]
    assert {key: place.get(key) for key in place.list()} == {key: store.place.get(key) for key in store.place.list()}


def test_a_token_that_the_subject_does_not_have_is_refused_before_the_model_runs(tmp_path, tiny_corpus, subject, plan, monkeypatch):
    worker = HarvestWorker(plan, tiny_corpus.place.url, str(tmp_path), subject)
    monkeypatch.setattr(worker.subject, "d_vocab", 10)
    with pytest.raises(CorruptObjectError, match=r"has the token [0-9,]+, the subject has 10"):
        worker.run(0)


def test_activations_beyond_float16_end_the_harvest_with_advice(tmp_path, tiny_corpus, subject, plan, monkeypatch):
    worker = HarvestWorker(plan, tiny_corpus.place.url, str(tmp_path), subject)
    original = worker.subject.activations
    monkeypatch.setattr(worker.subject, "activations", lambda *given: {name: found * 1e6 for name, found in original(*given).items()})
    with pytest.raises(ConfigError, match="to store them as float16: choose bfloat16 or float32"):
        worker.run(0)
    assert Place(tmp_path).list() == []


@pytest.fixture
def object_store(monkeypatch, tmp_path):
    """A real S3 server process with one bucket."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [Path(sys.executable).with_name("moto_server"), "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        environment = dict(AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}", AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test")
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("bucket")
        yield "s3://bucket"
        s3fs.S3FileSystem.clear_instance_cache()
    finally:
        server.terminate()
        server.wait(10)


def test_in_an_object_store_it_is_the_same_store(object_store, tiny_corpus, subject, plan, store):
    place = Place(f"{object_store}/run/store")
    harvest_here(place, plan, tiny_corpus, subject, shards=[4, 0, 2])
    harvest_here(place, plan, tiny_corpus, subject)
    assert finish_store(place, plan) == store.manifest
    assert place.list() == store.place.list()
    remote = Store(Place(f"{object_store}/run/store"))
    assert verify_store(remote.place) == []
    np.testing.assert_array_equal(remote.rows(MLP, 1, 5, 200), store.rows(MLP, 1, 5, 200))
