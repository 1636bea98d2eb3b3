"""The dashboards as pictures, where there is no Grafana: `python deploy/dashboard_pictures.py http://127.0.0.1:9090 OUT [MINUTES]`.

Asks Prometheus what the panels ask it and draws one PNG for each dashboard: what the last MINUTES (60 unless told) looked like.
"""

import json
import re
import sys
import time
import urllib.parse
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib import dates
from matplotlib.axes import Axes

sys.path.insert(0, str(Path(__file__).parent))
from dashboards import DASHBOARDS, Dashboard, Panel

COLUMNS = 3
POINTS = 240  # of a curve
# Grafana's units: what a value is multiplied with, and the axis' words.
UNITS = {
    "percentunit": (100.0, "%"),
    "percent": (1.0, "%"),
    "Bps": (1e-6, "MB/s"),
    "bytes": (1e-6, "MB"),
    "decmbytes": (1.0, "MB"),
    "s": (1.0, "seconds"),
    "reqps": (1.0, "requests/s"),
    "currencyUSD": (1.0, "dollars"),
    "none": (1.0, ""),
    "short": (1.0, ""),
}

Series = dict[str, list[tuple[float, float]]]


def ask(prometheus: str, query: str, start: float, end: float) -> list[dict[str, Any]]:
    """The series of a query over a time, as Prometheus' query_range gives them."""
    step = max(1.0, (end - start) / POINTS)
    parameters = urllib.parse.urlencode({"query": query, "start": start, "end": end, "step": step})
    with urllib.request.urlopen(f"{prometheus.rstrip('/')}/api/v1/query_range?{parameters}", timeout=30) as answer:
        return json.load(answer)["data"]["result"]


def series_of(prometheus: str, panel: Panel, start: float, end: float) -> Series:
    """Legend → (time, value) of everything a panel shows; `{{label}}` in a legend is the series' own label."""
    found: Series = {}
    for legend, query in panel.queries.items():
        for each in ask(prometheus, query, start, end):
            name = re.sub(r"{{(\w+)}}", lambda match, labels=each["metric"]: labels.get(match[1], ""), legend)
            found[name] = [(float(when), float(value)) for when, value in each["values"]]
    return found


def draw_panel(axes: Axes, panel: Panel, series: Series) -> None:
    """Curves over time, or the last values in large where the panel is a `stat`."""
    factor, unit = UNITS[panel.unit]
    axes.set_title(panel.title, fontsize=10, loc="left", fontweight="bold")
    axes.set_xlabel(panel.says, fontsize=7.5, loc="left", color="0.35")
    if not series:
        axes.text(0.5, 0.5, "no data", ha="center", va="center", transform=axes.transAxes, color="0.5")
    if not series or panel.kind == "stat":
        axes.set_xticks([])
        axes.set_yticks([])
        for row, (name, values) in enumerate(sorted(series.items())):
            axes.text(0.04, 0.9 - 0.14 * row, f"{name}: {factor * values[-1][1]:.4g} {unit}", va="top", fontsize=10, transform=axes.transAxes)
        return
    for name, values in sorted(series.items()):
        times = [datetime.fromtimestamp(when, UTC) for when, _ in values]
        axes.plot(times, [factor * value for _, value in values], label=name, linewidth=1.3, marker="." if len(values) < 3 else None)
    axes.set_ylabel(unit, fontsize=8)
    axes.set_ylim(bottom=min(0.0, *(factor * value for values in series.values() for _, value in values)))
    axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M"))
    axes.tick_params(labelsize=7)
    axes.grid(color="0.9")
    axes.legend(fontsize=6.5, loc="best", ncols=2 if len(series) > 4 else 1)


def draw(prometheus: str, dashboard: Dashboard, minutes: float, target: Path) -> None:
    """One dashboard as a PNG: panels three in a row, times in UTC."""
    end = time.time()
    rows = -(-len(dashboard.panels) // COLUMNS)
    figure, grid = plt.subplots(rows, COLUMNS, figsize=(15, 2.9 * rows), squeeze=False, layout="constrained")
    for axes in grid.flat[len(dashboard.panels) :]:
        axes.set_visible(False)
    for axes, panel in zip(grid.flat, dashboard.panels, strict=False):
        draw_panel(axes, panel, series_of(prometheus, panel, end - 60 * minutes, end))
    figure.suptitle(f"{dashboard.title} – {minutes:g} minutes to {datetime.fromtimestamp(end, UTC):%Y-%m-%d %H:%M} UTC", fontsize=12)
    figure.savefig(target, dpi=90)
    plt.close(figure)


def main(prometheus: str, directory: str, minutes: str = "60") -> None:
    """Draw all dashboards into a directory."""
    Path(directory).mkdir(parents=True, exist_ok=True)
    for dashboard in DASHBOARDS:
        draw(prometheus, dashboard, float(minutes), Path(directory, f"{dashboard.name}.png"))


if __name__ == "__main__":
    main(*sys.argv[1:])
