"""Which metrics and labels a PromQL query speaks of, as far as these tests need to know."""

import importlib.util
import re
from pathlib import Path

from services.monitoring.metrics import METRICS

_spec = importlib.util.spec_from_file_location("dashboards", Path(__file__).parents[2] / "deploy" / "dashboards.py")
dashboards = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(dashboards)

# What Prometheus and its operator add to every series, and the places in a histogram.
ADDED_LABELS = {"namespace", "pod", "instance", "job", "le"}
SERIES = {metric.name: set(metric.labels) for metric in METRICS}
for _metric in METRICS:
    if _metric.kind == "histogram":
        SERIES |= {f"{_metric.name}_{part}": set(_metric.labels) for part in ("bucket", "sum", "count")}


def metrics_of(query):
    return set(re.findall(r"\b(?:monosem|ray)_\w+", re.sub(r'"[^"]*"', '""', query)))


def unknown_metrics(query):
    return metrics_of(query) - set(SERIES) - dashboards.RAY_METRICS


def unknown_labels(query):
    """Labels that none of the query's metrics of our own has."""
    used = {name for names in re.findall(r"\bby \(([^)]*)\)", query) for name in re.split(r",\s*", names)}
    used |= set(re.findall(r"(\w+)(?:=~|!=|=)\"", query))
    return used - ADDED_LABELS - set().union(*(SERIES.get(name, set()) for name in metrics_of(query)))
