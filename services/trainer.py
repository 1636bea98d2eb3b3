"""Training as a Ray Train job: the pass of `sae.training` in workers that are restarted when one of them dies.

The state to go on from lies in the output itself, not in Ray Train's checkpoints. So workers that Ray Train restarts, on as many nodes as are
left, and a job that is simply run again, all continue where the last saved state ends.
"""

import contextlib
import math
import os
import uuid
from collections.abc import Iterator
from typing import Any, Literal, Self

import fsspec
import pyarrow.fs
import ray.train
from pydantic import Field, PositiveInt, model_validator
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from sae.config import Config
from sae.errors import InputError, MonosemError
from sae.storage import Place
from sae.training.config import TrainingConfig
from services.actors import WORKER_ENVIRONMENT
from services.devices import GpuProbe
from services.failure import final_error
from services.metrics import Monitor
from services.overlap import OVERLAPPED_CPU_SHARE, Overlap
from services.training_sinks import SinkName, check_sinks
from services.training_worker import Outcome, TrainingTask, train_in_worker
from services.worker_pool import PoolOptions, run_pool

RAY_TRAIN_DIRECTORY = ".ray-train"
# Workers with dictionaries of their own exchange nothing but their outcome, once: the first may wait for the last as long as that trains.
OUTCOME_TIMEOUT_SECONDS = 30 * 86_400
STEP_TIMEOUT_SECONDS = 1800
GPU_TIMEOUT_SECONDS = 1800.0  # a group of nodes that is scaled from zero takes minutes


class TrainerOptions(Config):
    """How training is spread over workers, what each occupies, and how often one may fail."""

    num_workers: PositiveInt = Field(1, description="training workers")
    min_workers: PositiveInt | None = Field(None, description="fewest workers to go on with where nodes are lost; null waits for all num_workers")
    parallel: Literal["dictionaries", "data", "features"] = Field(
        "dictionaries",
        description="what workers share: dictionaries are dealt out to them whole; data: the rows of each batch; features: each dictionary's d_sae",
    )
    num_cpus: float = Field(0.0, ge=0, description="CPUs (as Ray counts them) of a worker, rounded up also its threads; 0 shares out a node's")
    num_gpus: float = Field(0.0, ge=0, description="GPUs of a worker; 0 trains on the CPU")
    labels: dict[str, str] = Field({}, description="labels that a Ray node must have to be given a worker, as a node group's")
    max_failures: int = Field(3, ge=0, description="restarts after a worker died or failed")
    log_to: tuple[SinkName, ...] = Field((), description="tools that get live curves beside Prometheus: tensorboard, wandb (extras of this package)")

    @model_validator(mode="after")
    def _fewest_is_no_more_than_all(self) -> Self:
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError(f"min_workers {self.min_workers} is more than num_workers {self.num_workers}: lower it")
        return self

    @property
    def shared(self) -> Literal["data", "features"] | None:
        """What all workers share of every step; None: nothing, each trains whole dictionaries."""
        return None if self.parallel == "dictionaries" or self.num_workers == 1 else self.parallel


def train_dictionaries(
    config: TrainingConfig,
    store_url: str,
    hookpoint: str,
    output_url: str,
    options: TrainerOptions | None = None,
    monitor: Monitor | None = None,
    overlap: Overlap | None = None,
) -> dict[str, dict[str, Any]]:
    """Train all dictionaries of `config` on the cluster; needs an initialised Ray. Run again, it skips what is done and goes on with the rest.

    Args:
        config: the dictionaries and what they share.
        store_url: an activation store, finished unless `overlap` is given.
        hookpoint: which of its hookpoints.
        output_url: the directory that will hold one directory for each dictionary.
        options: resources and restarts.
        monitor: told of progress (stage `train/vectors`) and of the `monosem_train_*` metrics.
        overlap: of a store that a harvest is still filling. Workers then have the threads they would have alone, and reserve `reserved_cpus`.

    Returns:
        `result.json` of every dictionary by name.

    Raises:
        InputError: `log_to` names a tool that is not installed or cannot write there; no node has CPUs to share out; GPUs were asked for, and
            the image has no GPU runtime.
        UserError: whatever `sae.training.engine.train` finds wrong with the input, as itself and without a second attempt.
        DivergenceError: training produced NaN or infinity; it would again, so there is no second attempt either.
        WorkerError: workers failed more often than they may.
    """
    options = options or TrainerOptions()
    check_sinks(options.log_to, Place(output_url))
    num_workers = worker_count(config, options)
    threads = math.ceil(_worker_cpus(options, num_workers))
    if options.num_gpus:  # otherwise the workers would meet as strangers, in NCCL
        probe = PoolOptions(num_cpus=0, num_gpus=options.num_gpus, labels=options.labels, start_timeout_seconds=GPU_TIMEOUT_SECONDS)
        list(run_pool(GpuProbe, (), [None], 1, probe))
    with _ray_train_storage(Place(output_url)) as storage:
        scratch = Place(output_url).child(RAY_TRAIN_DIRECTORY, storage["name"]).url
        task = TrainingTask(config, store_url, hookpoint, output_url, options.shared, monitor, threads, scratch, overlap, options.log_to)
        trainer = TorchTrainer(
            train_in_worker,
            train_loop_config={"task": task},
            scaling_config=_scaling_config(options, num_workers, overlap is not None),
            torch_config=_torch_config(options),
            run_config=_run_config(options, storage, threads),
        )
        try:
            outcome: Outcome = trainer.fit().return_value
        except ray.train.TrainingFailedError as error:
            raise final_error(_cause(error), "training", options.max_failures + 1) from error
    if isinstance(outcome, MonosemError):
        raise outcome
    return outcome


def _scaling_config(options: TrainerOptions, num_workers: int, overlapped: bool) -> ScalingConfig:
    min_workers = min(options.min_workers or num_workers, num_workers)
    gpus = {"GPU": options.num_gpus} if options.num_gpus else {}
    return ScalingConfig(
        num_workers=num_workers if min_workers == num_workers else (min_workers, num_workers),
        use_gpu=options.num_gpus > 0,
        resources_per_worker={"CPU": reserved_cpus(options, num_workers, overlapped), **gpus},
        label_selector=dict(options.labels) or None,
    )


def _torch_config(options: TrainerOptions) -> TorchConfig:
    if options.shared is None:
        return TorchConfig(backend="gloo", timeout_s=OUTCOME_TIMEOUT_SECONDS)
    return TorchConfig(backend="nccl" if options.num_gpus else "gloo", timeout_s=STEP_TIMEOUT_SECONDS)


def _run_config(options: TrainerOptions, storage: dict[str, Any], threads: int) -> RunConfig:
    return RunConfig(
        **storage,
        failure_config=FailureConfig(max_failures=options.max_failures),
        worker_runtime_env={"env_vars": {**WORKER_ENVIRONMENT, "OMP_NUM_THREADS": str(threads)}},
    )


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


def worker_count(config: TrainingConfig, options: TrainerOptions) -> int:
    """How many workers a training takes."""
    return options.num_workers if options.shared else min(options.num_workers, len(config.dictionaries))


def reserved_cpus(options: TrainerOptions, num_workers: int, overlapped: bool) -> float:
    """CPUs, as Ray counts them, that each worker reserves: half of a shared-out node where a harvest runs beside it."""
    return _worker_cpus(options, num_workers) * (OVERLAPPED_CPU_SHARE if overlapped and not options.num_cpus else 1.0)


def _worker_cpus(options: TrainerOptions, num_workers: int) -> float:
    return options.num_cpus or max(1.0, _largest_node_cpus(options.labels) // num_workers)


def _largest_node_cpus(labels: dict[str, str]) -> float:
    nodes = [node for node in ray.nodes() if node["Alive"] and labels.items() <= node.get("Labels", {}).items()]
    largest = max((node["Resources"].get("CPU", 0.0) for node in nodes), default=0.0)
    if not largest:
        among = f" labelled {', '.join(f'{key}={value}' for key, value in labels.items())}" if labels else ""
        raise InputError(f"there is no node{among} yet whose CPUs training could share out (a group scaled to zero?): set trainer.num_cpus")
    return float(largest)
