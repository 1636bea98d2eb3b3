"""The plots of the breakdown: loss by position, change by the model's own loss, quantiles of the change."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.ticker import FuncFormatter, NullFormatter

from sae.report.plots import DASHES, GRID, MUTED, NUM_SERIES, PANEL_INCHES, color_of, panel, power_of_ten, to_svg


@dataclass(frozen=True)
class Line:
    """Values `y` at `x` of a dictionary."""

    label: str
    color: int
    x: Sequence[float]
    y: Sequence[float]


def by_position(name: str, lines: Sequence[Line], clean: Line) -> str:
    """Cross-entropy over the position in the sequence; the untouched model is the reference."""
    figure, axes = panel(PANEL_INCHES, 2.3)
    axes.plot(clean.x, clean.y, color=MUTED, linewidth=2.4, alpha=0.45)
    for line in lines:
        axes.plot(line.x, line.y, color=color_of(line.color), linestyle=DASHES[line.color % NUM_SERIES], linewidth=1.1)
    axes.grid(axis="y", color=GRID, linewidth=0.5)
    axes.set_xlabel("position in the sequence")
    axes.set_ylabel("cross-entropy (nats)")
    return to_svg(figure, name)


def by_loss(name: str, lines: Sequence[Line]) -> str:
    """KL divergence over the clean model's cross-entropy."""
    figure, axes = panel(PANEL_INCHES, 2.3)
    for line in lines:
        axes.plot(line.x, line.y, "o", color=color_of(line.color), linestyle=DASHES[line.color % NUM_SERIES], linewidth=1.1, markersize=3)
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color=GRID, linewidth=0.5)
    axes.set_xlabel("cross-entropy of the untouched model (nats)")
    axes.set_ylabel("KL divergence (nats)")
    return to_svg(figure, name)


def kl_quantiles(name: str, lines: Sequence[Line]) -> str:
    """Three quantiles of each dictionary on a logarithmic axis."""
    figure, axes = panel(PANEL_INCHES, 0.75 + 0.4 * len(lines))
    for height, line in enumerate(reversed(lines)):
        axes.plot([line.x[0], line.x[-1]], [height, height], color=color_of(line.color), linewidth=1.2)
        axes.plot(line.x, [height] * len(line.x), "o", color=color_of(line.color), markersize=4)
        axes.annotate(line.label, (0, height + 0.28), xycoords=("axes fraction", "data"), fontsize=8)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: power_of_ten(value) if value < 1e-3 else f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(-0.4, len(lines) - 0.2)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=GRID, linewidth=0.5)
    axes.set_xlabel("KL divergence (nats per prediction)")
    return to_svg(figure, name)
