"""A session on a Ray cluster."""

import contextlib
from collections.abc import Iterator

import ray

from services.cluster import connect
from services.cluster_config import ClusterConfig
from services.ending import afterwards
from services.monitor import RunMonitor
from services.session import Session
from services.worker_pool import RayPool


@contextlib.contextmanager
def open_ray_session(config: ClusterConfig) -> Iterator[Session]:
    """Connect to the cluster and start the board of metrics, for the duration of the `with` block.

    Raises:
        InputError: no cluster answers at the address.
    """
    with connect(config):
        monitor = RunMonitor.start(config.metrics_host, config.metrics_port)
        with afterwards("the metrics board", monitor.stop):
            resources = ray.cluster_resources()
            machine = {"cpus": resources.get("CPU", 0.0), "gpus": resources.get("GPU", 0.0), "nodes": len(ray.nodes())}
            yield Session("ray", RayPool(monitor), monitor, machine)
