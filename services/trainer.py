"""Training as a Ray Train job: the pass of `sae.training` in a worker that is restarted when it dies.

The state to go on from lies in the output itself, not in Ray Train's checkpoints. So a worker that Ray Train restarts, and a job that is
simply run again, both continue where the last saved state ends.
"""

import contextlib
import math
import os
import time
import uuid
from collections.abc import Iterator
from typing import Any

import fsspec
import pyarrow.fs
import ray.train
import torch
from pydantic import Field, PositiveInt
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from sae.config import Config
from sae.errors import MonosemError
from sae.parallel import Workers
from sae.storage import Place
from sae.store.reader import Store
from sae.training import TrainingConfig, train
from services.failure import Decision, decide, final_error
from services.metrics import Monitor
from services.worker_pool import WORKER_ENVIRONMENT

RAY_TRAIN_DIRECTORY = ".ray-train"
PROGRESS_SECONDS = 0.25
OUTCOME_TIMEOUT_SECONDS = 30 * 86_400

Outcome = dict[str, dict[str, Any]] | MonosemError


class TrainerOptions(Config):
    """What the training worker occupies, and how often it may fail."""

    num_workers: PositiveInt = Field(1, description="training workers, at most one a dictionary: the dictionaries are dealt out to them")
    num_cpus: float = Field(0.0, ge=0, description="CPUs (as Ray counts them) of a worker, rounded up also its threads; 0 shares out a node's")
    num_gpus: float = Field(0.0, ge=0, description="GPUs of a worker; 0 trains on the CPU")
    max_failures: int = Field(3, ge=0, description="restarts of a worker that died or failed")


def train_dictionaries(
    config: TrainingConfig, store_url: str, hookpoint: str, output_url: str, options: TrainerOptions | None = None, monitor: Monitor | None = None
) -> dict[str, dict[str, Any]]:
    """Train all dictionaries of `config` on the cluster; needs an initialised Ray. Run again, it skips what is done and goes on with the rest.

    Args:
        config: the dictionaries and what they share.
        store_url: a finished activation store.
        hookpoint: which of its hookpoints.
        output_url: the directory that will hold one directory for each dictionary.
        options: resources and restarts.
        monitor: told of progress (stage `train/vectors`) and of the `monosem_train_*` metrics.

    Returns:
        `result.json` of every dictionary by name.

    Raises:
        UserError: whatever `sae.training.train` finds wrong with the input, as itself and without a second attempt.
        DivergenceError: training produced NaN or infinity; it would again, so there is no second attempt either.
        WorkerError: the worker failed more often than it may.
    """
    options = options or TrainerOptions()
    num_workers = min(options.num_workers, len(config.dictionaries))
    num_cpus = options.num_cpus or max(1.0, _largest_node_cpus() // num_workers)
    threads = math.ceil(num_cpus)
    resources = {"CPU": num_cpus, **({"GPU": options.num_gpus} if options.num_gpus else {})}
    task = {"config": config, "store_url": store_url, "hookpoint": hookpoint, "output_url": output_url, "monitor": monitor, "threads": threads}
    with _ray_train_storage(Place(output_url)) as storage:
        trainer = TorchTrainer(
            train_in_worker,
            train_loop_config=task,
            scaling_config=ScalingConfig(num_workers=num_workers, use_gpu=options.num_gpus > 0, resources_per_worker=resources),
            # Workers exchange nothing but their outcome, once; the first may wait for the last as long as its dictionaries take.
            torch_config=TorchConfig(backend="gloo", timeout_s=OUTCOME_TIMEOUT_SECONDS),
            run_config=RunConfig(
                **storage,
                failure_config=FailureConfig(max_failures=options.max_failures),
                worker_runtime_env={"env_vars": {**WORKER_ENVIRONMENT, "OMP_NUM_THREADS": str(threads)}},
            ),
        )
        try:
            outcome = trainer.fit().return_value
        except ray.train.TrainingFailedError as error:
            raise final_error(_cause(error), "training", options.max_failures + 1) from error
    if isinstance(outcome, MonosemError):
        raise outcome
    results: dict[str, dict[str, Any]] = outcome
    return results


def train_in_worker(task: dict[str, Any]) -> Outcome:
    """What a worker does: train its share of the dictionaries, and return the outcome of all workers."""
    torch.set_num_threads(task["threads"])
    context = ray.train.get_context()
    rank, num_workers = context.get_world_rank(), context.get_world_size()
    config: TrainingConfig = task["config"]
    if num_workers == 1:
        return train_share(task, config, "train/vectors")
    share = config.model_copy(update={"dictionaries": config.dictionaries[rank::num_workers]})
    names = ", ".join(dictionary.name for dictionary in share.dictionaries)
    outcomes: list[Any] = [None] * num_workers
    torch.distributed.all_gather_object(outcomes, train_share(task, share, f"train {names}/vectors"))
    errors = [outcome for outcome in outcomes if isinstance(outcome, MonosemError)]
    results = {name: result for outcome in outcomes if not isinstance(outcome, MonosemError) for name, result in outcome.items()}
    return errors[0] if errors else {dictionary.name: results[dictionary.name] for dictionary in config.dictionaries}


def train_share(task: dict[str, Any], config: TrainingConfig, stage: str) -> Outcome:
    """Train the dictionaries of `config`. An error that a restart would only meet again is returned: Ray Train restarts after any that is raised."""
    reporter = Reporter(task["monitor"], stage)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        store = Store(Place(task["store_url"]))
        return train(store, task["hookpoint"], config, Place(task["output_url"]), reporter.progress, reporter.record, Workers(device))
    except MonosemError as error:
        if decide(error, attempts=1, max_attempts=2) is Decision.RAISE:
            return error
        raise


class Reporter:
    """Turns what `sae.training.train` says into metrics and progress.

    Args:
        monitor: None reports nothing.
        stage: what the progress is called, and its unit.
    """

    def __init__(self, monitor: Monitor | None, stage: str = "train/vectors") -> None:
        self.monitor, self.stage = monitor, stage
        self._last_progress = -math.inf

    def progress(self, done: int, total: int) -> None:
        """Pass progress on, not more often than it can be looked at."""
        now = time.monotonic()
        if self.monitor and (done == total or now - self._last_progress >= PROGRESS_SECONDS):
            self._last_progress = now
            self.monitor.progress(self.stage, done, total)

    def record(self, dictionary: str, row: dict[str, Any]) -> None:
        """Export a log row or an event."""
        if self.monitor is None:
            return
        if row.get("event") == "resampled":
            self.monitor.add("monosem_train_resampled_total", row["resampled"], dictionary=dictionary)
        elif "event" not in row:
            for term, loss in row["losses"].items():
                self.monitor.set("monosem_train_loss", loss, dictionary=dictionary, term=term)
            for name in ("l0", "fvu", "dead_fraction", "step_seconds"):
                if row[name] is not None:
                    self.monitor.set(f"monosem_train_{name}", row[name], dictionary=dictionary)
            self.monitor.add("monosem_train_vectors_total", row["window_vectors"], dictionary=dictionary)


@contextlib.contextmanager
def _ray_train_storage(output: Place) -> Iterator[dict[str, Any]]:
    # Ray Train insists on a place of its own that every node can reach; the output is one. Nothing of it is needed afterwards.
    files, root = fsspec.url_to_fs(output.url)
    path = os.path.join(root, RAY_TRAIN_DIRECTORY)
    name = uuid.uuid4().hex  # a name that was used before would make Ray Train take up that run
    try:
        yield {"name": name, "storage_path": path, "storage_filesystem": pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(files))}
    finally:
        if files.exists(path):
            files.rm(path, recursive=True)


def _cause(error: ray.train.TrainingFailedError) -> BaseException:
    failures = list(getattr(error, "worker_failures", {}).values())
    cause = failures[0] if failures else error
    return getattr(cause, "_base_exc", cause)  # Ray Train wraps what the worker raised, and has no public way to unwrap it


def _largest_node_cpus() -> float:
    return max((node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]), default=1.0)
