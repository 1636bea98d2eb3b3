"""The interface through which stages report their progress and metrics."""

from typing import Protocol


class Monitor(Protocol):
    """Takes the counts, gauges and progress of a stage; `services.monitoring.monitor.RunMonitor` passes them on."""

    def add(self, metric: str, amount: float, /, **labels: str) -> None:
        """Add to a counter."""

    def set(self, metric: str, value: float, /, **labels: str) -> None:
        """Set a gauge, or observe a value of a histogram."""

    def progress(self, stage: str, done: int, total: int, /) -> None:
        """Say how far a stage is; `stage` is `name/unit`."""


class Silent:
    """A monitor that nobody reads."""

    def add(self, metric: str, amount: float, /, **labels: str) -> None:
        """Forget it."""

    def set(self, metric: str, value: float, /, **labels: str) -> None:
        """Forget it."""

    def progress(self, stage: str, done: int, total: int, /) -> None:
        """Forget it."""


SILENT = Silent()
