"""The Ray cluster a job runs on: the one at an address, or a local one that ends with the job."""

import contextlib
import functools
import logging
import os
from collections.abc import Iterator
from types import ModuleType

import ray

from sae.errors import InputError
from services.cluster.config import ClusterConfig
from services.cluster.head_watch import head_watched
from services.ending import afterwards, current


@contextlib.contextmanager
def connect(config: ClusterConfig) -> Iterator[None]:
    """Connect to Ray for the duration of a job; an already connected process keeps its connection.

    Raises:
        InputError: no cluster answers at the address.
    """
    if ray.is_initialized():
        yield
        return
    with afterwards("Ray's shutdown", ray.shutdown):
        with _our_signals():
            _start(config)
        ending = current()
        with head_watched(ending.fail) if ending else contextlib.nullcontext():
            yield


def _start(config: ClusterConfig) -> None:
    address = config.address or os.environ.get("RAY_ADDRESS")
    try:
        if address:
            ray.init(address=address, log_to_driver=config.worker_logs, logging_level=logging.ERROR)
        else:
            ray.init(
                num_cpus=config.num_cpus or os.cpu_count(), object_store_memory=config.object_store_bytes, include_dashboard=False,
                log_to_driver=config.worker_logs, logging_level=logging.ERROR,
            )  # fmt: skip
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"cannot reach a Ray cluster at {address or 'this machine'}: {reason} (check RAY_ADDRESS and the token)") from None


@contextlib.contextmanager
def _our_signals() -> Iterator[None]:
    """Keep Ray's start away from signals, for which it has no settings.

    `ray.init` would replace this process' SIGTERM handler by one that leaves without a word. Its own processes would lie in this process' group:
    a signal to the group (a closed terminal, `timeout`, Slurm) would end them before training has saved its last state through them.
    """
    apart = functools.partial(ray._private.services.ConsolePopen, process_group=0)
    with _replaced(ray._private.utils, "set_sigterm_handler", lambda handler: None), _replaced(ray._private.services, "ConsolePopen", apart):
        yield


@contextlib.contextmanager
def _replaced(module: ModuleType, name: str, value: object) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
