"""The registry of a run's metrics and the progress of its stages, in one process; Prometheus reads them from its port."""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server

from services.monitoring.metrics import build_metrics


class MetricsBoard:
    """A registry, its HTTP endpoint, and the progress of every stage: an actor behind a `RunMonitor`, or part of a `LocalMonitor`.

    Args:
        host: address to listen on; loopback unless the caller asks for more.
        port: TCP port of `/metrics`; 0 takes a free one, None opens none.
    """

    def __init__(self, host: str = "127.0.0.1", port: int | None = 0) -> None:
        self.registry = CollectorRegistry()
        self._metrics = build_metrics(self.registry)
        self._progress: dict[str, tuple[int, int]] = {}
        self.address, self._server = "", None
        if port is not None:
            self._server, _ = start_http_server(port, host, registry=self.registry)
            self.address = f"http://{host}:{self._server.server_port}/metrics"

    def endpoint(self) -> str:
        """The URL that Prometheus scrapes; empty where none was opened."""
        return self.address

    def close(self) -> None:
        """Close the endpoint."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def add(self, name: str, amount: float, labels: dict[str, str]) -> None:
        """Add to a counter."""
        metric = self._child(name, labels)
        if isinstance(metric, Counter):
            metric.inc(amount)

    def set(self, name: str, value: float, labels: dict[str, str]) -> None:
        """Set a gauge, or observe a value of a histogram."""
        metric = self._child(name, labels)
        if isinstance(metric, Histogram):
            metric.observe(value)
        else:
            metric.set(value)

    def progress(self, stage: str, done: int, total: int) -> None:
        """Record how far a stage is."""
        self._progress[stage] = (done, total)
        self.set("monosem_stage_progress_ratio", done / total if total else 0.0, {"stage": stage})

    def stages(self) -> dict[str, tuple[int, int]]:
        """`(done, total)` of every stage, in the order they began."""
        return self._progress

    def _child(self, name: str, labels: dict[str, str]) -> Any:
        metric = self._metrics[name]
        return metric.labels(**labels) if labels else metric


class LocalMonitor:
    """The monitor of a run in this process, without a cluster.

    Args:
        host: address to listen on; loopback unless the caller asks for more.
        port: TCP port of `/metrics`; 0 takes a free one, None opens none.
    """

    def __init__(self, host: str = "127.0.0.1", port: int | None = 0) -> None:
        self.board = MetricsBoard(host, port)

    def endpoint(self) -> str:
        """The URL that Prometheus scrapes; empty where none was opened."""
        return self.board.endpoint()

    def add(self, name: str, amount: float, /, **labels: str) -> None:
        """Add to a counter that `services.monitoring.metrics` declares."""
        self.board.add(name, amount, labels)

    def set(self, name: str, value: float, /, **labels: str) -> None:
        """Set a gauge, or observe a value of a histogram, that `services.monitoring.metrics` declares."""
        self.board.set(name, value, labels)

    def progress(self, stage: str, done: int, total: int, /) -> None:
        """Say how far a stage is, in the stage's own units (tokens, vectors, features)."""
        self.board.progress(stage, done, total)

    def stages(self) -> dict[str, tuple[int, int]]:
        """`(done, total)` of every stage."""
        return dict(self.board.stages())

    def stop(self) -> None:
        """Close the endpoint."""
        self.board.close()
