"""Plots as inline SVG: text stays text, colours are CSS variables of the page, equal data give equal bytes.

Every plot is a small panel drawn about as wide as it is shown, so that its text keeps its size on a narrow screen; the page lays
panels out side by side. Colours are named here by placeholders and become `var(--…)`, which is how one drawing serves light and
dark; series differ in dash as well as in colour.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

NUM_SERIES = 7
PANEL_INCHES = 3.2
DASHES = ("solid", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (3, 1)), (0, (8, 2)), (0, (1, 2)))
INK, MUTED, GRID = "#0a0b01", "#0a0b02", "#0a0b03"
_VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--line)"}
_VARIABLES |= {f"#0a0c{series:02x}": f"var(--series-{series})" for series in range(NUM_SERIES)}
_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name with dollar signs is a name
    "font.size": 8.5,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "text.color": INK,
    "path.simplify_threshold": 0.5,
}


@dataclass(frozen=True)
class Series:
    """A line: values `y` at `x`, drawn in the colour number `color`, with events marked at `marks` on the x axis."""

    color: int
    x: Sequence[float]
    y: Sequence[float]
    marks: Sequence[float] = ()


@dataclass(frozen=True)
class Sample:
    """A row of a distribution plot: its values, their median and the 95 % interval of the median."""

    label: str
    color: int
    values: np.ndarray
    median: float | None = None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Dots:
    """A row of a dot plot: named values on one axis."""

    label: str
    color: int
    values: dict[str, float]


def color_of(series: int) -> str:
    """The placeholder of a series' colour; colours repeat after `NUM_SERIES`."""
    return f"#0a0c{series % NUM_SERIES:02x}"


def curves(name: str, series: Sequence[Series], y_label: str, *, log: bool = False, percent: bool = False) -> str:
    """Training curves over the vectors seen; the marks of a series are short ticks on the x axis."""
    figure, axes = panel(PANEL_INCHES, 2.15)
    width = 1.3 if len(series) <= NUM_SERIES else 0.8
    for line in series:
        axes.plot(line.x, line.y, color=color_of(line.color), linestyle=DASHES[line.color % NUM_SERIES], linewidth=width)
        for mark in line.marks:
            axes.axvline(mark, ymin=0, ymax=0.08, color=color_of(line.color), linewidth=1.1)
    if log and any(value > 0 for line in series for value in line.y):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: power_of_ten(value) if value < 1e-3 or value >= 1e4 else f"{value:g}"))
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
    elif percent:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
        axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    axes.set_xlim(left=0)
    axes.grid(axis="y", color=GRID, linewidth=0.5)
    axes.set_xlabel("vectors seen")
    axes.set_ylabel(y_label)
    return to_svg(figure, name)


def density_histogram(name: str, color: int, edges: Sequence[float], counts: Sequence[float]) -> str:
    """Plot how many features fire on which fraction of tokens; `edges` are log10 of the density."""
    figure, axes = panel(PANEL_INCHES, 2.15)
    axes.stairs(counts, edges, fill=True, color=color_of(color), alpha=0.75, linewidth=0)
    low, high = int(np.floor(min(edges))), int(np.ceil(max(edges)))
    step = max(1, (high - low) // 6)
    axes.set_xticks(ticks := list(range(low, high + 1, step)), [power_of_ten(10.0**tick) for tick in ticks])
    axes.set_xlim(low, high)
    axes.grid(axis="y", color=GRID, linewidth=0.5)
    axes.set_xlabel("density (fraction of tokens a feature fires on)")
    axes.set_ylabel("features")
    return to_svg(figure, name)


def score_distributions(name: str, samples: Sequence[Sample], x_label: str, limits: tuple[float, float]) -> str:
    """One half violin per sample over a shared axis; the dot is the median, its bar the 95 % interval, ticks the quartiles."""
    figure, axes = panel(PANEL_INCHES, 0.55 + 0.52 * max(len(samples), 1))
    bins = np.linspace(*limits, 49)
    for row, sample in enumerate(reversed(samples)):
        axes.axhline(row, color=GRID, linewidth=0.5)
        counts = np.histogram(np.clip(sample.values, *limits), bins)[0]
        smooth = np.convolve(counts, [0.25, 0.5, 0.25], mode="same")
        heights = 0.52 * smooth / max(smooth.max(initial=0), 1e-9)
        axes.fill_between((bins[1:] + bins[:-1]) / 2, row, row + heights, color=color_of(sample.color), alpha=0.45, linewidth=0)
        axes.text(limits[0], row + 0.6, sample.label, va="bottom", fontsize=8)
        if len(sample.values):
            axes.plot(np.quantile(sample.values, [0.25, 0.75]), [row, row], "|", color=MUTED, markersize=6)
        if sample.median is not None:
            if sample.interval is not None:
                axes.plot(sample.interval, [row, row], color=INK, linewidth=2.2, solid_capstyle="butt")
            axes.plot([sample.median], [row], "o", color=INK, markersize=4)
            axes.text(limits[1], row + 0.6, _median_label(sample), va="bottom", ha="right", fontsize=8, color=MUTED)
    axes.set_ylim(-0.2, len(samples))
    axes.set_xlim(*limits)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(x_label)
    return to_svg(figure, name)


def points_by_source(name: str, samples: Sequence[Sample], x_label: str, limits: tuple[float, float]) -> str:
    """One dot per value, piled up where they are equal; above them the mean with its 95 % interval."""
    figure, axes = panel(4.0, 0.6 + 0.62 * max(len(samples), 1))
    for row, sample in enumerate(reversed(samples)):
        axes.axhline(row, color=GRID, linewidth=0.5)
        values = np.sort(sample.values)
        first = np.searchsorted(values, values, side="left")
        piled = np.arange(len(values)) - first
        tallest = max(1, int(piled.max(initial=0)))
        axes.plot(values, row + 0.05 + 0.38 * piled / max(tallest, 6), "o", color=color_of(sample.color), alpha=0.55, markersize=3, markeredgewidth=0)
        axes.text(limits[0], row + 0.56, sample.label, va="bottom", fontsize=8)
        if sample.interval is not None:
            axes.plot(sample.interval, [row, row], color=INK, linewidth=2.2, solid_capstyle="butt")
        if sample.median is None:
            continue
        axes.plot([sample.median], [row], "o", color=INK, markersize=4.5)
        axes.text(limits[1], row + 0.56, f"mean {sample.median:.1f}, n = {len(values):,}", va="bottom", ha="right", fontsize=8, color=MUTED)
    axes.set_ylim(-0.25, len(samples))
    axes.set_xlim(limits[0] - 0.2, limits[1] + 0.2)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(x_label)
    return to_svg(figure, name)


def dot_rows(name: str, rows: Sequence[Dots], x_label: str) -> str:
    """Named values of each row as dots on a shared axis, the first name drawn hollow as the reference."""
    figure, axes = panel(4.0, 0.5 + 0.6 * max(len(rows), 1))
    for height, row in enumerate(reversed(rows)):
        color = color_of(row.color)
        axes.axhline(height, color=GRID, linewidth=0.5)
        axes.annotate(row.label, (0, height + 0.45), xycoords=("axes fraction", "data"), fontsize=8)
        for rank, (label, value) in enumerate(row.values.items()):
            axes.plot([value], [height], "o", color=color, markersize=5, markerfacecolor="none" if rank == 0 else color)
            offset, side = ((0, 5), "bottom") if rank % 2 == 0 else ((0, -5), "top")
            axes.annotate(label, (value, height), offset, textcoords="offset points", ha="center", va=side, fontsize=7.5, color=MUTED)
    axes.set_ylim(-0.45, len(rows) - 0.2)
    axes.margins(x=0.06)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(x_label)
    return to_svg(figure, name)


def power_of_ten(value: float) -> str:
    """`value` as 10 to the nearest whole power, in plain text."""
    return "10" + str(round(float(np.log10(value)))).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")) if value > 0 else "0"


def short_number(value: float) -> str:
    """A count in three digits at most: 950, 12k, 3.2M."""
    for size, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


def _median_label(sample: Sample) -> str:
    return f"median {sample.median:.2f}, n = {len(sample.values):,}"


def panel(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty plot in the page's style; sizes in inches."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.add_subplot()


def to_svg(figure: Figure, name: str) -> str:
    """The figure as an SVG element whose ids begin with `name`."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue().decode()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", svg, count=1, flags=re.DOTALL)  # `*{…}` would reach the whole page
    svg = re.sub(r' width="[\d.]+pt" height="[\d.]+pt"', ' aria-hidden="true" focusable="false"', svg, count=1)
    svg = re.sub(r" font-family: [^;\"]+;", "", svg)
    svg = re.sub(r'( id="| xlink:href="#|url\(#)([^")]+)', lambda found: f"{found[1]}{name}-{found[2]}", svg)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    svg = re.sub(r' transform="rotate\(-0 [^)]*\)"', "", svg)
    return re.sub("|".join(_VARIABLES), lambda found: _VARIABLES[found[0]], svg)
