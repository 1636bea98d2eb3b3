"""Training as a Ray Train job: the pass of `sae.training` in workers that are restarted when one of them dies.

The state to go on from lies in the output itself, not in Ray Train's checkpoints. So workers that Ray Train restarts, on as many nodes as are
left, and a job that is simply run again, all continue where the last saved state ends.
"""

import contextlib
import math
import os
import uuid
from collections.abc import Iterator
from typing import Any

import fsspec
import pyarrow.fs
import ray.exceptions
import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from sae.config import shown
from sae.errors import MonosemError, WorkerError
from sae.execution import PoolOptions
from sae.failure import final_error
from sae.monitor import Monitor
from sae.storage import Place
from sae.store import Store
from sae.training.config import TrainingConfig
from sae.training.engine import train
from sae.training.records import RESULT_KEY
from services.ending import afterwards
from services.pool.actors import WORKER_ENVIRONMENT
from services.pool.devices import GpuProbe
from services.pool.ray_pool import run_pool
from services.training.options import TrainerOptions, worker_count
from services.training.overlap import Overlap
from services.training.resources import reserved_cpus, worker_cpus
from services.training.sinks import check_sinks
from services.training.watch import TrainingWatch, fit_watched
from services.training.worker import Outcome, TrainingTask, train_in_worker

RAY_TRAIN_DIRECTORY = ".ray-train"
# Workers with dictionaries of their own exchange nothing but their outcome, once: the first may wait for the last as long as that trains.
OUTCOME_TIMEOUT_SECONDS = 30 * 86_400
STEP_TIMEOUT_SECONDS = 1800
GPU_TIMEOUT_SECONDS = 1800.0  # a group of nodes that is scaled from zero takes minutes


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
        WorkerError: workers failed more often than they may, or what leads them died.
    """
    options, output = options or TrainerOptions(), Place(output_url)
    if overlap is None and all(output.exists(f"{dictionary.name}/{RESULT_KEY}") for dictionary in config.dictionaries):
        return train(Store(Place(store_url)), hookpoint, config, output)  # compares plans
    check_sinks(options.log_to, output)
    num_workers = worker_count(config, options)
    threads = math.ceil(worker_cpus(options, num_workers))
    if options.num_gpus:  # otherwise the workers would meet as strangers, in NCCL
        probe = PoolOptions(num_cpus=0, num_gpus=options.num_gpus, labels=options.labels, start_timeout_seconds=GPU_TIMEOUT_SECONDS)
        list(run_pool(GpuProbe, (), [None], 1, probe))
    if overlap is None:
        Store(Place(store_url))  # that there is none is better said now than by workers half a minute later
    with _ray_train_storage(output) as storage:
        scratch = output.child(RAY_TRAIN_DIRECTORY, storage["name"]).url
        watch = TrainingWatch.start()
        task = TrainingTask(config, store_url, hookpoint, output_url, options.shared, monitor, threads, scratch, overlap, options.log_to, watch)
        trainer = TorchTrainer(
            train_in_worker,
            train_loop_config={"task": task},
            scaling_config=_scaling_config(options, num_workers, overlap is not None),
            torch_config=_torch_config(options),
            run_config=_run_config(options, storage, threads),
        )
        try:
            with afterwards("the watch over training", watch.end):
                outcome: Outcome = fit_watched(trainer.fit, watch, monitor).return_value
        except (ray.train.TrainingFailedError, ray.exceptions.RayActorError) as error:
            raise training_error(error, options.max_failures + 1) from error
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
    with afterwards("deleting Ray Train's own files", lambda: _delete_own(files, path, name)):
        yield {"name": name, "storage_path": path, "storage_filesystem": pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(files))}


def _delete_own(files: Any, directory: str, name: str) -> None:
    """Delete what this training wrote; the directory itself, too, unless another training uses it."""
    if files.exists(f"{directory}/{name}"):
        files.rm(f"{directory}/{name}", recursive=True)
    with contextlib.suppress(OSError):
        files.rmdir(directory)


def training_error(error: ray.train.TrainingFailedError | ray.exceptions.RayActorError, attempts: int) -> MonosemError:
    """Describe why Ray Train ended: its workers failed, or the actor that leads them died, as where the output is on a full disk."""
    if isinstance(error, ray.train.TrainingFailedError):
        return final_error(_cause(error), "training", attempts)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no message"]
    return WorkerError(f"training ended because Ray Train's controller died: {shown(lines[-1])}. Run the same command again to continue")


def _cause(error: ray.train.TrainingFailedError) -> BaseException:
    failures = list(getattr(error, "worker_failures", {}).values())
    cause = failures[0] if failures else error
    return getattr(cause, "_base_exc", cause)  # Ray Train wraps what the worker raised, and has no public way to unwrap it
