"""Training worker, alone or in step with others; its reports go to the monitor."""

from dataclasses import dataclass
from typing import Any, Literal

import ray.train
import torch

import sae.errors
from sae.errors import MonosemError, StoppedError
from sae.failure import Decision, decide
from sae.monitor import Monitor
from sae.parallel.process_groups import ProcessGroups
from sae.parallel.workers import Workers
from sae.storage import Place
from sae.training.config import TrainingConfig
from sae.training.engine import train
from services.pool.devices import device
from services.training.overlap import Overlap, open_store
from services.training.report import reporting
from services.training.sinks import SinkName
from services.training.watch import UNWATCHED, Pulse, TrainingWatch

FAILURE_KEY = "failure.json"

Outcome = dict[str, dict[str, Any]] | MonosemError


@dataclass(frozen=True)
class TrainingTask:
    """Task of all workers of a training.

    Args:
        config: the dictionaries and what they share.
        store_url: the activation store.
        hookpoint: which of its hookpoints is encoded.
        output_url: the directory of all dictionaries.
        parallel: what the workers share of each step; None: nothing, each trains whole dictionaries.
        monitor: told of progress and log rows.
        threads: of each worker.
        scratch_url: a place of this very job, gone when it ends.
        overlap: of a store that a harvest is still filling; None: it is finished.
        log_to: tools that get the log rows as they come.
        watch: is told that the workers live, and tells them to stop.
    """

    config: TrainingConfig
    store_url: str
    hookpoint: str
    output_url: str
    parallel: Literal["data", "features"] | None = None
    monitor: Monitor | None = None
    threads: int = 1
    scratch_url: str = ""
    overlap: Overlap | None = None
    log_to: tuple[SinkName, ...] = ()
    watch: TrainingWatch | None = None


def train_in_worker(settings: dict[str, Any]) -> Outcome:
    """Train this worker's share, and return the outcome of all workers."""
    task: TrainingTask = settings["task"]
    torch.set_num_threads(task.threads)
    context = ray.train.get_context()
    rank, num_workers = context.get_world_rank(), context.get_world_size()
    with Pulse(task.watch, rank) as pulse:
        return _train_among(task, rank, num_workers, pulse)


def _train_among(task: TrainingTask, rank: int, num_workers: int, pulse: Pulse) -> Outcome:
    where = device()
    if num_workers == 1:
        return train_share(task, task.config, "train/vectors", Workers(where), pulse)
    if task.parallel is not None:
        return train_together(task, ProcessGroups(**{task.parallel: torch.distributed.group.WORLD}, device=where), pulse)
    share = task.config.model_copy(update={"dictionaries": task.config.dictionaries[rank::num_workers]})
    names = ", ".join(dictionary.name for dictionary in share.dictionaries)
    outcomes: list[Any] = [None] * num_workers
    own = train_share(task, share, f"train {names}/vectors", Workers(where), pulse)
    with pulse.waiting():
        torch.distributed.all_gather_object(outcomes, own)
    errors = [outcome for outcome in outcomes if isinstance(outcome, MonosemError)]
    results = {name: result for outcome in outcomes if not isinstance(outcome, MonosemError) for name, result in outcome.items()}
    return errors[0] if errors else {dictionary.name: results[dictionary.name] for dictionary in task.config.dictionaries}


def train_together(task: TrainingTask, workers: Workers, pulse: Pulse = UNWATCHED) -> Outcome:
    """Train every dictionary in step with the other workers.

    One that fails cannot return its error, since the others wait for it in the middle of a step: it leaves word and lets Ray Train restart
    them all, who then find that another attempt would only end the same way. All of them stop after the same step, and so return.
    """
    scratch = Place(task.scratch_url)
    if scratch.exists(FAILURE_KEY):
        return _as_error(scratch.get_json(FAILURE_KEY))
    outcome = train_share(task, task.config, "train/vectors", workers, pulse)
    if isinstance(outcome, MonosemError) and not isinstance(outcome, StoppedError):
        scratch.put_json(FAILURE_KEY, {"error": type(outcome).__name__, "message": str(outcome)})
        raise outcome
    return outcome


def train_share(task: TrainingTask, config: TrainingConfig, stage: str, workers: Workers, pulse: Pulse = UNWATCHED) -> Outcome:
    """Train the dictionaries of `config`. An error that a restart would only meet again is returned: Ray Train restarts after any that is raised."""
    output = Place(task.output_url)
    try:
        with reporting(task.monitor, stage, task.log_to, output) as reporter:
            store = open_store(task.store_url, task.overlap, task.monitor, pulse)
            return train(store, task.hookpoint, config, output, reporter.progress, reporter.record, workers, pulse.must_stop)
    except MonosemError as error:
        if decide(error, attempts=1, max_attempts=2) is Decision.RAISE:
            return error
        raise


def _as_error(found: dict[str, str]) -> MonosemError:
    kind = getattr(sae.errors, found["error"], MonosemError)
    return kind(found["message"]) if issubclass(kind, MonosemError) else MonosemError(found["message"])
