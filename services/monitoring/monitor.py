"""One place where a run on a cluster can be watched: Prometheus metrics, and the progress of its stages.

Workers come and go, on many machines; a scrape target of each would too. So one actor, the board, owns the registry, is fed by messages
from all workers, answers Prometheus on one port and tells the driver how far every stage is.
"""

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from services.monitoring.board import MetricsBoard

ANSWER_TIMEOUT_SECONDS = 30.0


class RunMonitor:
    """Sender of messages to the board, held by services and workers: fire-and-forget. It may be sent to other processes."""

    def __init__(self, board: Any) -> None:
        self.board = board

    @classmethod
    def start(cls, host: str = "127.0.0.1", port: int | None = 0) -> "RunMonitor":
        """Start the board on the driver's own node: a job's metrics are found where the job was submitted, wherever its workers are."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        return cls(ray.remote(MetricsBoard).options(num_cpus=0, max_concurrency=1, scheduling_strategy=here).remote(host, port))

    def endpoint(self) -> str:
        """The URL that Prometheus scrapes."""
        return str(ray.get(self.board.endpoint.remote(), timeout=ANSWER_TIMEOUT_SECONDS))

    def add(self, name: str, amount: float, /, **labels: str) -> None:
        """Add to a counter that `services.monitoring.metrics` declares."""
        self.board.add.remote(name, amount, labels)

    def set(self, name: str, value: float, /, **labels: str) -> None:
        """Set a gauge, or observe a value of a histogram, that `services.monitoring.metrics` declares."""
        self.board.set.remote(name, value, labels)

    def progress(self, stage: str, done: int, total: int) -> None:
        """Say how far a stage is, in the stage's own units (tokens, vectors, features)."""
        self.board.progress.remote(stage, done, total)

    def stages(self) -> dict[str, tuple[int, int]]:
        """`(done, total)` of every stage; none where the cluster is going away, which whoever waits on it reports."""
        try:
            stages: dict[str, tuple[int, int]] = ray.get(self.board.stages.remote(), timeout=ANSWER_TIMEOUT_SECONDS)
        except ray.exceptions.RayError:
            return {}
        return stages

    def stop(self) -> None:
        """End the board; its port closes."""
        ray.kill(self.board)
