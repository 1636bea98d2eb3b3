"""Training as a Ray Train job."""

import errno
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from safetensors.torch import load

from sae.architectures.config import ReluConfig, TopKConfig
from sae.errors import DivergenceError, HookpointError, InputError, PlanError, StorageError, WorkerError
from sae.parallel.workers import ALONE
from sae.storage import Place
from sae.store.manifest import StorePlan, finish_store, start_store
from sae.store.reader import Store
from sae.store.writer import write_shard
from sae.training.config import DictionaryConfig, TrainingConfig
from sae.training.engine import train
from sae.training.optimization import OptimizerConfig
from sae.training.resampling import ResamplingConfig
from services.pool.actors import WORKER_ENVIRONMENT
from services.training import trainer
from services.training import watch as training_watch
from services.training.options import TrainerOptions
from services.training.report import Reporter
from services.training.trainer import RAY_TRAIN_DIRECTORY, train_dictionaries
from services.training.worker import TrainingTask, train_share, train_together

# Ray Train makes a context of Ray Data, which warns of its own defaults.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")

HOOKPOINT = "blocks.0.mlp.hook_post"
OPTIONS = TrainerOptions(num_cpus=1, max_failures=1)
SMALL = TrainingConfig(
    dictionaries=[
        DictionaryConfig(name="relu", sae=ReluConfig(d_sae=16, l1_coefficient=0.02), resampling=ResamplingConfig(num_inputs=64)),
        DictionaryConfig(name="topk", sae=TopKConfig(d_sae=16, k=3, aux_k=4)),
    ],
    batch_size=64,
    log_every=4,
    checkpoint_seconds=0,
    dead_window_vectors=256,
)
WILD = DictionaryConfig(
    name="wild", sae=TopKConfig(d_sae=16, k=3), optimizer=OptimizerConfig(decay_fraction=0).model_copy(update={"learning_rate": 1e30})
)


class Recorder:
    """A monitor that writes what it is told into files, so that it can be told from any process."""

    def __init__(self, directory):
        self.directory = str(directory)

    def add(self, metric, amount, /, **labels):
        self._note(metric, amount, labels)

    def set(self, metric, value, /, **labels):
        self._note(metric, value, labels)

    def progress(self, stage, done, total, /):
        self._note(stage, done, {"total": total, "pid": os.getpid()})

    def notes(self):
        lines = [path.read_text().split("\t") for path in sorted(Path(self.directory).glob("*.note"))]
        return [(name, float(amount), eval(labels)) for name, amount, labels in lines]

    def _note(self, name, amount, labels):
        path = Path(self.directory, f"{time.monotonic_ns():020d}.note")
        path.with_suffix(".new").write_text(f"{name}\t{amount}\t{labels!r}")
        path.with_suffix(".new").rename(path)


class KillOnce(Recorder):
    """Sends the worker process a signal at its first progress, once."""

    def __init__(self, directory, number=signal.SIGKILL):
        super().__init__(directory)
        self.number = number

    def progress(self, stage, done, total, /):
        super().progress(stage, done, total)
        environment = Path(self.directory, "environment")
        if not environment.exists():
            environment.write_bytes(Path("/proc/self/environ").read_bytes())
            os.kill(os.getpid(), self.number)

    def environment(self):
        """What /proc says of the worker's environment."""
        pairs = Path(self.directory, "environment").read_bytes().decode().rstrip("\0").split("\0")
        return dict(pair.split("=", 1) for pair in pairs)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The worker computes with one; bits depend on it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def store_url(tmp_path_factory):
    """1,024 positive vectors of width 8."""
    place = Place(tmp_path_factory.mktemp("store"))
    plan = StorePlan(
        subject="random", subject_digest="0", corpus_digest="0", context_length=64, hookpoints={HOOKPOINT: 8}, dtype="float32", num_sequences=16,
        sequences_per_shard=4, special_token_ids=[],
    )  # fmt: skip
    start_store(place, plan)
    activations = torch.rand(16, 64, 8, generator=torch.Generator().manual_seed(0))
    for shard in range(plan.num_shards):
        first, last = plan.shard_range(shard)
        write_shard(place, plan, shard, np.ones((last - first, 64), dtype=np.uint32), {HOOKPOINT: activations[first:last]})
    finish_store(place, plan)
    return place.url


def test_where_the_actor_that_leads_ray_trains_workers_dies_its_own_error_is_named():
    own = ray.exceptions.RayTaskError("__init__", "Traceback …\nOSError: [Errno 28] No space left on device: '/run'", OSError())
    error = trainer.training_error(ray.exceptions.ActorDiedError(own), 4)
    assert isinstance(error, WorkerError)
    assert "No space left on device" in str(error)
    assert "Run the same command again" in str(error)
    assert "Traceback" not in str(error)


def test_metrics_are_those_of_the_log_row(tmp_path):
    recorder = Recorder(tmp_path)
    reporter = Reporter(recorder)
    row = {"losses": {"total": 3.0, "sparsity": 1.0}, "l0": 7.0, "fvu": 0.25, "dead_fraction": 0.5, "window_vectors": 640}
    row |= {"step_seconds": 0.1, "read_seconds": 0.02, "sync_seconds": 0.01, "learning_rate": 1e-3}
    reporter.record("relu", row)
    reporter.record("relu", {"event": "resampled", "dead": 6, "resampled": 5})
    reporter.record("relu", {"event": "after_resampling", "resampled": 5, "alive": 4})
    label = {"dictionary": "relu"}
    assert recorder.notes() == [
        ("monosem_train_loss", 3.0, label | {"term": "total"}),
        ("monosem_train_loss", 1.0, label | {"term": "sparsity"}),
        ("monosem_train_l0", 7.0, label),
        ("monosem_train_fvu", 0.25, label),
        ("monosem_train_dead_fraction", 0.5, label),
        ("monosem_train_step_seconds", 0.1, label),
        ("monosem_train_read_seconds", 0.02, label),
        ("monosem_train_sync_seconds", 0.01, label),
        ("monosem_train_learning_rate", 1e-3, label),
        ("monosem_train_vectors_total", 640.0, label),
        ("monosem_train_resampled_total", 5.0, label),
    ]


def test_without_a_monitor_nothing_is_reported():
    Reporter(None).record("relu", {"event": "resampled", "resampled": 1})
    Reporter(None).progress(1, 2)


@pytest.fixture(scope="module", autouse=True)
def importable_in_workers():
    """Workers cannot import a test module: what of it they need travels by value."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.mark.ray
def test_a_killed_worker_is_restarted_and_ends_where_an_undisturbed_one_does(ray_cluster, store_url, tmp_path):
    undisturbed = Place(tmp_path / "undisturbed")
    train(Store(Place(store_url)), HOOKPOINT, SMALL, undisturbed)

    (tmp_path / "notes").mkdir()
    monitor = KillOnce(tmp_path / "notes")
    output = Place(tmp_path / "output")
    results = train_dictionaries(SMALL, store_url, HOOKPOINT, output.url, OPTIONS, monitor)

    processes = {labels["pid"] for name, _, labels in monitor.notes() if name == "train/vectors"}
    assert len(processes) == 2
    assert os.getpid() not in processes
    assert results.keys() == {"relu", "topk"}
    for name in results:
        assert output.get(f"{name}/weights.safetensors") == undisturbed.get(f"{name}/weights.safetensors")
    assert not [key for key in output.list() if RAY_TRAIN_DIRECTORY in key]
    assert monitor.notes()[-1][0].startswith("monosem_train") or monitor.notes()[-1][1] == 1024

    environment = monitor.environment()
    assert {name: environment.get(name) for name in WORKER_ENVIRONMENT} == WORKER_ENVIRONMENT
    assert environment["OMP_NUM_THREADS"] == "1"


def test_finished_dictionaries_are_returned_without_a_worker_and_held_to_their_plans(store_url, tmp_path, monkeypatch):
    results = train(Store(Place(store_url)), HOOKPOINT, SMALL, Place(tmp_path))
    monkeypatch.setattr(trainer, "TorchTrainer", lambda *arguments, **named: pytest.fail("nothing is left to train"))
    assert train_dictionaries(SMALL, store_url, HOOKPOINT, str(tmp_path)) == results
    with pytest.raises(PlanError, match="log_every"):
        train_dictionaries(SMALL.model_copy(update={"log_every": 5}), store_url, HOOKPOINT, str(tmp_path))


def test_a_store_that_is_not_there_is_said_before_any_worker_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "TorchTrainer", lambda *arguments, **named: pytest.fail("there is nothing to train on"))
    with pytest.raises(InputError, match="harvest"):
        train_dictionaries(SMALL, str(tmp_path / "nothing"), HOOKPOINT, str(tmp_path), OPTIONS)


@pytest.mark.ray
def test_a_stopped_process_is_named_and_replaced_and_training_ends_as_an_undisturbed_one(ray_cluster, store_url, tmp_path, monkeypatch):
    """SIGSTOP: it neither dies nor answers. The time limit is that of `services.cluster.environment`, shorter."""
    monkeypatch.setenv("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", "4")
    monkeypatch.setattr(training_watch, "SILENT_SECONDS", 1.5)
    monkeypatch.setattr(training_watch, "LOOK_SECONDS", 0.2)
    said = []
    monkeypatch.setattr(training_watch, "log", lambda event, **fields: said.append((event, *fields.values())))
    undisturbed = Place(tmp_path / "undisturbed")
    train(Store(Place(store_url)), HOOKPOINT, SMALL, undisturbed)
    (tmp_path / "notes").mkdir()
    output = Place(tmp_path / "output")
    train_dictionaries(SMALL, store_url, HOOKPOINT, output.url, OPTIONS, KillOnce(tmp_path / "notes", signal.SIGSTOP))
    for name in ("relu", "topk"):
        assert output.get(f"{name}/weights.safetensors") == undisturbed.get(f"{name}/weights.safetensors")
    assert [event for event, _ in said] == ["worker_stuck"]
    assert "training worker 0 (process " in said[0][1]
    assert "no sign of life" in said[0][1]


@pytest.mark.ray
def test_a_mistake_of_the_caller_comes_out_as_itself_and_at_once(ray_cluster, store_url, tmp_path):
    with pytest.raises(HookpointError, match=r"blocks\.7"):
        train_dictionaries(SMALL, store_url, "blocks.7.mlp.hook_post", str(tmp_path), OPTIONS)


@pytest.mark.parametrize(
    ("changes", "hookpoint", "error"),
    [
        ({}, "blocks.7.mlp.hook_post", HookpointError),
        ({"dictionaries": [WILD]}, HOOKPOINT, DivergenceError),
    ],
)
def test_the_worker_returns_an_error_that_a_restart_would_only_meet_again(store_url, tmp_path, changes, hookpoint, error):
    config = SMALL.model_copy(update=changes)
    task = TrainingTask(config, store_url, hookpoint, str(tmp_path))
    assert isinstance(train_share(task, config, "train/vectors", ALONE), error)


def test_the_worker_raises_an_error_that_a_restart_may_mend(store_url, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sae.storage.local.os.replace", full)
    task = TrainingTask(SMALL, store_url, HOOKPOINT, str(tmp_path))
    with pytest.raises(StorageError):
        train_share(task, SMALL, "train/vectors", ALONE)


@pytest.mark.ray
def test_dictionaries_dealt_out_to_two_workers_are_those_of_one(ray_cluster, store_url, tmp_path):
    alone, dealt = Place(tmp_path / "alone"), Place(tmp_path / "dealt")
    train(Store(Place(store_url)), HOOKPOINT, SMALL, alone)
    results = train_dictionaries(SMALL, store_url, HOOKPOINT, dealt.url, TrainerOptions(num_workers=2, num_cpus=0.5))
    assert list(results) == ["relu", "topk"]
    for name in results:
        assert dealt.get(f"{name}/weights.safetensors") == alone.get(f"{name}/weights.safetensors")


@pytest.mark.ray
def test_an_error_of_the_second_worker_comes_out_as_itself(ray_cluster, store_url, tmp_path):
    diverging = SMALL.model_copy(update={"dictionaries": [SMALL.dictionaries[1], WILD]})
    with pytest.raises(DivergenceError, match="wild"):
        train_dictionaries(diverging, store_url, HOOKPOINT, str(tmp_path), TrainerOptions(num_workers=2, num_cpus=0.5, max_failures=0))


@pytest.mark.ray
@pytest.mark.parametrize("parallel", ["data", "features"])
def test_two_workers_in_step_lose_one_and_end_where_one_worker_does(ray_cluster, store_url, tmp_path, parallel):
    """One of the two is killed the hard way; both are restarted and go on from the last state, with the same batches."""
    alone, together = Place(tmp_path / "alone"), Place(tmp_path / "together")
    train(Store(Place(store_url)), HOOKPOINT, SMALL, alone)
    (tmp_path / "notes").mkdir()
    monitor = KillOnce(tmp_path / "notes")
    options = TrainerOptions(num_workers=2, min_workers=1, parallel=parallel, num_cpus=0.5, max_failures=1)
    results = train_dictionaries(SMALL, store_url, HOOKPOINT, together.url, options, monitor)
    assert list(results) == ["relu", "topk"]
    assert len({labels["pid"] for name, _, labels in monitor.notes() if name == "train/vectors"}) == 2
    for name in results:
        expected, found = (load(place.get(f"{name}/weights.safetensors")) for place in (alone, together))
        assert found.keys() == expected.keys()
        for key, tensor in expected.items():
            assert (found[key] - tensor).abs().max() <= 1e-5 * tensor.abs().max(), (name, key)
        assert results[name]["final"]["l0"] == pytest.approx(alone.get_json(f"{name}/result.json")["final"]["l0"], rel=1e-3)


def test_an_error_among_workers_in_step_is_left_for_the_next_attempt_to_pass_on(store_url, tmp_path):
    """The first attempt cannot return it, since others wait for it in the middle of a step; the second need not try again."""
    task = TrainingTask(SMALL, store_url, "blocks.7.mlp.hook_post", str(tmp_path / "output"), "data", scratch_url=str(tmp_path / "scratch"))
    with pytest.raises(HookpointError) as first:
        train_together(task, ALONE)
    second = train_together(task, ALONE)
    assert isinstance(second, HookpointError)
    assert str(second) == str(first.value)
