"""Where a command's stages work: in this process, or on a Ray cluster."""

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from sae.errors import InputError
from sae.execution import Executor, InProcess
from sae.monitor import Monitor
from services.cluster.config import ClusterConfig
from services.ending import afterwards

ExecutorName = Literal["local", "ray"]


class RunningMonitor(Monitor, Protocol):
    """A monitor with an address, which ends with its session."""

    def endpoint(self) -> str:
        """The URL that Prometheus scrapes; empty where none was opened."""

    def stages(self) -> dict[str, tuple[int, int]]:
        """`(done, total)` of every stage, in the order they began."""

    def stop(self) -> None:
        """Close the endpoint."""


@dataclass(frozen=True)
class Session:
    """Executor, monitor and machine of a command's stages.

    Attributes:
        name: of the executor.
        executor: does the tasks of the stages.
        monitor: is told of their progress.
        machine: CPUs, GPUs and nodes that there are.
    """

    name: ExecutorName
    executor: Executor
    monitor: RunningMonitor
    machine: dict[str, float]


def choose_executor(config: ClusterConfig) -> tuple[ExecutorName, str]:
    """Choose the executor, and say why.

    Raises:
        InputError: the configuration asks for Ray, which is not installed.
    """
    installed = importlib.util.find_spec("ray") is not None
    address = config.address or os.environ.get("RAY_ADDRESS")
    if config.executor == "local":
        return "local", "cluster.executor is local"
    if not installed and (config.executor == "ray" or address):
        asked = "cluster.executor is ray" if config.executor == "ray" else f"a cluster is named ({address})"
        raise InputError(f"{asked}, but Ray is not installed: pip install 'monosem[cluster]', or set cluster.executor=local and no address")
    if config.executor == "ray":
        return "ray", "cluster.executor is ray"
    if address:
        return "ray", "a cluster is named"
    if not installed:
        return "local", "Ray is not installed"
    if (config.num_cpus or os.cpu_count() or 1) == 1:
        return "local", "there is one CPU, on which workers would only take turns"
    return "ray", "several CPUs work at once"


@contextlib.contextmanager
def open_session(config: ClusterConfig) -> Iterator[Session]:
    """Open what the stages of a command work with, for the duration of the `with` block.

    Raises:
        InputError: no cluster answers at the address, or Ray is asked for and not installed.
    """
    name, _ = choose_executor(config)
    if name == "ray":
        from services.cluster.ray_session import open_ray_session  # Ray is imported only where it works

        with open_ray_session(config) as session:
            yield session
        return
    from services.monitoring.board import LocalMonitor

    monitor = LocalMonitor(config.metrics_host, config.metrics_port)
    with afterwards("the endpoint of metrics", monitor.stop):
        machine = {"cpus": float(config.num_cpus or os.cpu_count() or 1), "gpus": float(torch.cuda.device_count()), "nodes": 1}
        yield Session(name, InProcess(monitor), monitor, machine)
