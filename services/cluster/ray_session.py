"""A session on a Ray cluster."""

import contextlib
from collections.abc import Iterator

import ray

from services.cluster.config import ClusterConfig
from services.cluster.connection import connect
from services.ending import afterwards
from services.monitoring.monitor import RunMonitor
from services.pool.ray_pool import RayPool
from services.session import Session


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
