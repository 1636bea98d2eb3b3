"""What the benchmarks share: a measurement, interleaved timing, and the facts of the machine."""

import importlib.metadata
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.peers import Skipped as Skipped

VERSIONED = ("torch", "ray", "transformer-lens", "pyarrow", "s3fs", "numpy")


@dataclass(frozen=True)
class Bar:
    """What a ratio must reach: `Bar("<=", 1.5)`."""

    relation: str
    limit: float

    def met(self, ratio: float) -> bool:
        return ratio <= self.limit if self.relation == "<=" else ratio >= self.limit

    def __str__(self) -> str:
        return f"{'≤' if self.relation == '<=' else '≥'} {self.limit:g}"


@dataclass(frozen=True)
class Measurement:
    """What a benchmark found.

    Args:
        value: the figure itself.
        unit: of the value.
        ratios: name of what it is compared with → ratio, both sides measured in this run.
        bars: what a ratio must reach, by its name; ratios without a bar are told, not judged.
        details: whatever else makes the figure understandable (sizes, medians of each side, reasons for what is absent).
    """

    value: float
    unit: str
    ratios: dict[str, float]
    bars: dict[str, Bar] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


def interleaved_seconds(candidates: dict[str, Callable[[], object]], repeats: int, warm_up: int = 1) -> dict[str, float]:
    """The median wall time of each candidate, all of them called in turn: a machine that slows down slows all sides."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(warm_up + repeats):
        for name, call in candidates.items():
            began = time.perf_counter()
            call()
            if turn >= warm_up:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(found) for name, found in times.items()}


def machine() -> dict[str, Any]:
    """Processor, cores, memory, GPU."""
    facts = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.partition(":")[2].strip() for line in facts.splitlines() if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": len(names) or None,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def versions() -> dict[str, str]:
    """Versions of what the figures depend on."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in VERSIONED}}
