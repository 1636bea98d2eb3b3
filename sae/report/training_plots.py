"""The plots of the training page: a frontier, densities over time, and where a step's time goes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from sae.report.plots import DASHES, GRID, INK, MUTED, NUM_SERIES, PANEL_INCHES, color_of, panel, power_of_ten, short_number, to_svg

MARKERS = "osD^vPX"
SHADES = 6
NAMED_POINTS = 12
NAME_HEIGHT = 9.0  # height of a name, in points


@dataclass(frozen=True)
class Point:
    """A dictionary on a frontier; points of one group are joined."""

    label: str
    group: str
    color: int
    x: float
    y: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Term:
    """One loss term over the vectors seen."""

    label: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Mark:
    """A moment to point out, with a short text."""

    x: float
    text: str = ""


@dataclass(frozen=True)
class Densities:
    """Histograms of log10 density, one a log row.

    Attributes:
        x: vectors seen at the end of each window.
        counts: features by window and bin, [windows bins].
        first, step: lower edge of the first bin and width of a bin, in powers of ten.
        silent: features that did not fire in the window.
    """

    x: Sequence[float]
    counts: np.ndarray
    first: float
    step: float
    silent: Sequence[float]


@dataclass(frozen=True)
class Times:
    """Seconds of a step by what they go into."""

    label: str
    color: int
    seconds: dict[str, float]


def frontier(name: str, points: Sequence[Point], y_label: str, *, percent: bool = False) -> str:
    """Quality against L0, both as measured on the same text; dictionaries of one group are joined in the order of their L0."""
    figure, axes = panel(4.0, 2.8)
    groups = dict.fromkeys(point.group for point in points)
    for rank, group in enumerate(groups):
        members = sorted((point for point in points if point.group == group), key=lambda point: point.x)
        color, x, y = color_of(members[0].color), [point.x for point in members], [point.y for point in members]
        marker = MARKERS[rank % len(MARKERS)]
        axes.plot(x, y, marker=marker, color=color, linestyle=DASHES[members[0].color % NUM_SERIES], linewidth=1.1, markersize=4.5)
        for point in members:
            if point.interval is not None:
                axes.plot([point.x, point.x], point.interval, color=color, linewidth=1.6, solid_capstyle="butt")
    if len(points) <= NAMED_POINTS:
        _name_points(axes, points)
    positive = [point.x for point in points if point.x > 0]
    if positive and max(positive) > 1.5 * min(positive):
        _log_axis(axes)
    axes.margins(0.12)
    if positive and max(positive) < 1.2 * min(positive):  # else hundredths of a feature would fill the axis
        axes.set_xlim(min(positive) / 1.1, max(positive) * 1.1)
    if percent:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g} %"))
    axes.grid(color=GRID, linewidth=0.5)
    axes.set_xlabel("L0 (features that fire on a token, mean)")
    axes.set_ylabel(y_label)
    return to_svg(figure, name)


def _name_points(axes: Axes, points: Sequence[Point]) -> None:
    # Names of neighbours would lie on one another: they stand above and below in turn, in the order of L0.
    for rank, point in enumerate(sorted(points, key=lambda point: (point.x, point.y))):
        offset, side = ((0, 6), "bottom") if rank % 2 == 0 else ((0, -6), "top")
        axes.annotate(point.label, (point.x, point.y), offset, textcoords="offset points", ha="center", va=side, fontsize=7.5, color=MUTED)


def _log_axis(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def loss_terms(name: str, color: int, terms: Sequence[Term], marks: Sequence[Mark]) -> str:
    """The terms of one dictionary's loss on a logarithmic axis; marks are drawn up the whole height, their texts at the top."""
    figure, axes = panel(PANEL_INCHES, 2.3)
    for rank, term in enumerate(terms):
        axes.plot(term.x, term.y, color=color_of(color), linestyle=DASHES[rank % len(DASHES)], linewidth=1.3, alpha=1.0 - 0.12 * min(rank, 4))
    if any(value > 0 for term in terms for value in term.y):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: power_of_ten(value) if value < 1e-3 or value >= 1e4 else f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    _draw_marks(axes, marks)
    _vectors_axis(axes)
    _name_ends(axes, terms)
    axes.set_ylabel("loss per step")
    return to_svg(figure, name)


def _name_ends(axes: Axes, terms: Sequence[Term]) -> None:
    """The name of each line at its right end, lifted where it would lie on the one below."""
    bottom, least = axes.get_ylim()[0], -float("inf")
    for term in sorted(terms, key=lambda term: term.y[-1]):
        end = (term.x[-1], max(term.y[-1], bottom))
        height = float(axes.transData.transform(end)[1]) * 72 / axes.figure.dpi
        least = max(height, least)
        place: dict[str, Any] = {"textcoords": "offset points", "va": "center", "annotation_clip": False}
        axes.annotate(term.label, end, (3, least - height), fontsize=7.5, color=MUTED, **place)
        least += NAME_HEIGHT


def densities(name: str, color: int, found: Densities, marks: Sequence[Mark]) -> str:
    """Plot how many features fire how often, over the run: darker is more features, on a logarithmic scale of counts."""
    figure, axes = panel(PANEL_INCHES, 2.3)
    starts = [0.0, *found.x[:-1]]
    shades = np.ceil(SHADES * np.log1p(found.counts) / max(np.log1p(found.counts.max()), 1e-9)).astype(int)
    for shade in range(1, SHADES + 1):
        cells = [
            _rectangle(starts[begin], found.x[end - 1], found.first + bin * found.step, found.first + (bin + 1) * found.step)
            for bin, column in enumerate(np.equal(shades.T, shade))
            for begin, end in _runs(column)
        ]
        if cells:  # one path a shade, one cell a run of windows: the page weighs a tenth of what a path a cell would
            axes.add_patch(PathPatch(Path.make_compound_path(*cells), facecolor=color_of(color), alpha=shade / SHADES, linewidth=0))
    filled = np.flatnonzero(found.counts.sum(0))
    low = int(np.floor(found.first + found.step * (filled[0] if len(filled) else 0)))
    axes.set_ylim(low, 0)
    axes.set_yticks(ticks := list(range(low, 1)), [power_of_ten(10.0**tick) for tick in ticks])
    _draw_marks(axes, marks)
    _vectors_axis(axes)
    axes.set_xlim(0, found.x[-1])
    axes.set_ylabel("density within a log row")
    return to_svg(figure, name)


def step_times(name: str, rows: Sequence[Times]) -> str:
    """A bar for each dictionary: milliseconds of a step by what they go into, in the order and shade of the legend at its top."""
    figure, axes = panel(4.0, 0.7 + 0.24 * len(rows))
    parts = list(rows[0].seconds)
    for height, row in enumerate(reversed(rows)):
        left = 0.0
        for rank, part in enumerate(parts):
            width = 1000 * row.seconds[part]
            axes.barh(height, width, 0.62, left, color=color_of(row.color), alpha=1.0 - 0.32 * rank, linewidth=0)
            left += width
        axes.annotate(f"{left:.3g}", (left, height), (3, 0), textcoords="offset points", va="center", fontsize=7.5, color=MUTED)
    axes.set_yticks(range(len(rows)), [row.label for row in reversed(rows)])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.margins(x=0.1)
    axes.grid(axis="x", color=GRID, linewidth=0.5)
    axes.set_xlabel("milliseconds a step")
    return to_svg(figure, name)


def _runs(chosen: np.ndarray) -> list[tuple[int, int]]:
    """Where `chosen` is true without a break: (begin, end) of each stretch."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], chosen.astype(int), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _rectangle(left: float, right: float, bottom: float, top: float) -> Path:
    return Path([(left, bottom), (right, bottom), (right, top), (left, top), (left, bottom)], closed=True)


def _draw_marks(axes: Axes, marks: Sequence[Mark]) -> None:
    for rank, mark in enumerate(marks):
        axes.axvline(mark.x, color=INK, linewidth=0.7, linestyle=(0, (2, 2)))
        height = 2 + 8 * (rank % 2)  # in turn lower and higher: neighbours' texts would lie on one another
        place: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "ha": "center", "va": "bottom"}
        axes.annotate(mark.text, (mark.x, 1.0), (0, height), fontsize=7, color=MUTED, annotation_clip=False, **place)


def _vectors_axis(axes: Axes) -> None:
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    axes.set_xlim(left=0)
    axes.grid(axis="y", color=GRID, linewidth=0.5)
    axes.set_xlabel("vectors seen")
