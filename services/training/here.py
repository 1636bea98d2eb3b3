"""Training in this process, without Ray: one pass over the store for all dictionaries, as a single worker of a cluster would make it."""

import concurrent.futures
import math
import os
import threading
from collections.abc import Callable
from typing import Any

from sae.devices import device
from sae.execution import computing_threads
from sae.log import log
from sae.monitor import Monitor
from sae.parallel.workers import Workers
from sae.storage import Place
from sae.store import Store
from sae.training.config import TrainingConfig
from sae.training.engine import train
from services.training.options import TrainerOptions
from services.training.report import reporting
from services.training.sinks import check_sinks

STOP_SECONDS = 5.5  # for a step and its state, after a signal
Results = dict[str, dict[str, Any]]


def train_here(
    config: TrainingConfig, store_url: str, hookpoint: str, output_url: str, options: TrainerOptions, monitor: Monitor | None = None
) -> Results:
    """Train all dictionaries of `config` in this process. Run again, it skips what is done and goes on with the rest.

    Args:
        config: the dictionaries and what they share.
        store_url: a finished activation store.
        hookpoint: which of its hookpoints.
        output_url: the directory that will hold one directory for each dictionary.
        options: of them, `num_cpus` (0: all of the machine) and `log_to`; the others need a cluster.
        monitor: told of progress (stage `train/vectors`) and of the `monosem_train_*` metrics.

    Returns:
        `result.json` of every dictionary by name.

    Raises:
        InputError: `log_to` names a tool that is not installed or cannot write there.
        UserError, DivergenceError: as `sae.training.engine.train`.
        KeyboardInterrupt: after the last state was saved, or after `STOP_SECONDS`.
    """
    output = Place(output_url)
    check_sinks(options.log_to, output)
    if options.num_workers > 1:
        log("trains_alone", asked_for=options.num_workers, reason="one process trains all dictionaries where cluster.executor is local")
    threads = math.ceil(options.num_cpus) or os.cpu_count() or 1

    def work(must_stop: Callable[[], bool]) -> Results:
        with computing_threads(threads), reporting(monitor, "train/vectors", options.log_to, output) as reporter:
            store = Store(Place(store_url))
            return train(store, hookpoint, config, output, reporter.progress, reporter.record, Workers(device()), must_stop)

    return _until_interrupted(work)


def _until_interrupted(work: Callable[[Callable[[], bool]], Results]) -> Results:
    """Return `work(must_stop)`, which runs on another thread: an interrupt asks it to stop after its step instead of ending it within one."""
    stop, result = threading.Event(), concurrent.futures.Future[Results]()

    def settle() -> None:
        try:
            result.set_result(work(stop.is_set))
        except BaseException as error:  # noqa: BLE001 - it is raised on the thread that waits
            result.set_exception(error)

    threading.Thread(target=settle, name="train", daemon=True).start()
    try:
        while not concurrent.futures.wait([result], timeout=0.25).done:  # short waits: an interrupt is noticed between them
            pass
    except KeyboardInterrupt:
        stop.set()
        concurrent.futures.wait([result], timeout=STOP_SECONDS)
        raise
    return result.result()
