"""One place where a run can be watched: Prometheus metrics, and progress on the terminal or in a log.

Workers come and go, on many machines; a scrape target of each would too. So one actor, the board, owns the registry, is fed by messages
from all workers, answers Prometheus on one port and tells the driver how far every stage is.
"""

import contextlib
import math
import sys
import threading
import time
from types import TracebackType
from typing import Any, Self

import ray
from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from tqdm import tqdm

from sae.log import log
from services.metrics import build_metrics

REFRESH_SECONDS = 0.5
LINE_SECONDS = 15.0
ANSWER_TIMEOUT_SECONDS = 30.0


class MetricsBoard:
    """The actor behind a `RunMonitor`: a registry, its HTTP endpoint, and the progress of every stage.

    Args:
        host: address to listen on; loopback unless the caller asks for more.
        port: TCP port of `/metrics`; 0 takes a free one, None opens none.
    """

    def __init__(self, host: str = "127.0.0.1", port: int | None = 0) -> None:
        self.registry = CollectorRegistry()
        self._metrics = build_metrics(self.registry)
        self._progress: dict[str, tuple[int, int]] = {}
        self.address = ""
        if port is not None:
            server, _ = start_http_server(port, host, registry=self.registry)
            self.address = f"http://{host}:{server.server_port}/metrics"

    def endpoint(self) -> str:
        """The URL that Prometheus scrapes; empty where none was opened."""
        return self.address

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


class RunMonitor:
    """What services and workers hold: fire-and-forget messages to the board. It may be sent to other processes."""

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
        """Add to a counter that `services.metrics` declares."""
        self.board.add.remote(name, amount, labels)

    def set(self, name: str, value: float, /, **labels: str) -> None:
        """Set a gauge, or observe a value of a histogram, that `services.metrics` declares."""
        self.board.set.remote(name, value, labels)

    def progress(self, stage: str, done: int, total: int) -> None:
        """Say how far a stage is, in the stage's own units (tokens, vectors, features)."""
        self.board.progress.remote(stage, done, total)

    def stages(self) -> dict[str, tuple[int, int]]:
        """`(done, total)` of every stage."""
        stages: dict[str, tuple[int, int]] = ray.get(self.board.stages.remote(), timeout=ANSWER_TIMEOUT_SECONDS)
        return stages

    def stop(self) -> None:
        """End the board; its port closes."""
        ray.kill(self.board)


class ProgressDisplay:
    """Shows on the driver's standard error how far every stage is, whoever does the work; fed by the board.

    Bars with rate and time left on a terminal; elsewhere, in the log of a job, a line a stage and `LINE_SECONDS`.
    """

    def __init__(self, monitor: RunMonitor) -> None:
        self._monitor = monitor
        self._show: _Bars | _Lines = _Bars() if sys.stderr.isatty() else _Lines()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._refresh_until_stopped, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(ANSWER_TIMEOUT_SECONDS if error is None else REFRESH_SECONDS)  # a run that ends early does not wait for the board
        with contextlib.suppress(OSError):  # the terminal may be gone
            self._show.close()

    def _refresh_until_stopped(self) -> None:
        while not self._stop.wait(REFRESH_SECONDS):
            self._refresh()
        self._refresh()

    def _refresh(self) -> None:
        try:
            stages = self._monitor.stages()
        except ray.exceptions.RayError:
            return  # the cluster is going away; whoever waits on it reports why
        for stage, (done, total) in stages.items():
            self._show.update(stage, done, total)


class _Bars:
    """One bar a stage."""

    def __init__(self) -> None:
        self._bars: dict[str, tqdm[Any]] = {}

    def update(self, stage: str, done: int, total: int) -> None:
        if stage not in self._bars:
            name, _, unit = stage.partition("/")
            self._bars[stage] = tqdm(total=total or None, desc=f"{name:<12}", unit=f" {unit or 'steps'}", unit_scale=True, dynamic_ncols=True)
        bar = self._bars[stage]
        if bar.disable:
            return  # closed: the stage is done, and its time and rate should not go on changing
        bar.total = total or None
        bar.update(done - bar.n)
        if total and done >= total:
            bar.close()

    def close(self) -> None:
        for bar in self._bars.values():
            bar.close()


class _Lines:
    """One line a stage, at its beginning, every `LINE_SECONDS` and at its end."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[float, int]] = {}
        self._last: dict[str, tuple[float, int]] = {}

    def update(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        began, done_then = self._first.setdefault(stage, (now, done))
        said, said_done = self._last.get(stage, (-math.inf, -1))
        if done == said_done or (done < total and now - said < LINE_SECONDS):
            return
        self._last[stage] = (now, done)
        name, _, unit = stage.partition("/")
        rate = (done - done_then) / (now - began) if now > began else 0.0
        log("progress", stage=name, done=done, total=total, unit=unit or "steps", per_second=round(rate, 1))

    def close(self) -> None:
        self._last.clear()
