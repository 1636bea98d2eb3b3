"""Where predictions are lost: by position, by how well the model knew the token, the worst one by one, and concepts found in labelled text."""

from dataclasses import dataclass

import numpy as np

from sae.report import breakdown_plots
from sae.report.charts import Drawing
from sae.report.gather import RunRecord, TrainedDictionary, value_at
from sae.report.numbers import shown
from sae.report.training_charts import legend_and_colors

WORST_SHOWN = 12


@dataclass(frozen=True)
class WorstRow:
    """A prediction that the reconstruction changes badly: text up to it, the true next token, losses and KL divergence in nats."""

    context: str
    next_token: str
    position: str
    clean: str
    spliced: str
    kl_divergence: str


@dataclass(frozen=True)
class Worst:
    """The worst predictions of a dictionary."""

    name: str
    color: int
    says: str
    rows: list[WorstRow]


def breakdown_drawings(record: RunRecord) -> list[Drawing]:
    """Loss by position, loss recovered by the clean model's loss, and quantiles of the KL divergence."""
    drawings = []
    colors = legend_and_colors(record.dictionaries)[1]
    positioned = [each for each in record.dictionaries if "positions" in each.tables]
    by_position = [_line(each, colors[each.name], "spliced") for each in positioned]
    if any(line.x for line in by_position):
        clean = _line(positioned[0], colors[positioned[0].name], "clean")
        svg = breakdown_plots.by_position("by-position", [line for line in by_position if line.x], clean)
        caption = "Mean cross-entropy of the token that follows each position; grey is the untouched model, the distance to it is what is lost."
        drawings.append(Drawing("Loss by position.", caption, svg))
    by_loss = [_ranges(each, colors[each.name]) for each in record.dictionaries if "losses" in each.tables]
    if any(line.x for line in by_loss):
        svg = breakdown_plots.by_loss("by-loss", [line for line in by_loss if line.x])
        caption = "Mean KL divergence of predictions by how well the untouched model knew the token: left what it was sure of, right its surprises."
        drawings.append(Drawing("Change by the model's own loss.", caption, svg))
    quantiles = [_quantiles(each, colors[each.name]) for each in record.dictionaries]
    if any(quantiles):
        svg = breakdown_plots.kl_quantiles("kl-quantiles", [each for each in quantiles if each])
        caption = "Half of all predictions change less than the left dot, 90 % less than the middle, 99 % less than the right one."
        drawings.append(Drawing("Quantiles of the KL divergence.", caption, svg))
    return drawings


def worst_predictions(record: RunRecord) -> list[Worst]:
    """The predictions that each dictionary changes most."""
    found = []
    for each in record.dictionaries:
        figures = value_at(each.evaluation, "worst_percent")
        if "worst" not in each.tables or not figures:
            continue
        share = figures["share_of_kl"]
        part = f" and hold {shown(share, 'share')} of all KL divergence" if share is not None else ""
        says = (
            f"The worst 1 % are {figures['num_predictions']:,} predictions: each changes by at least {shown(figures['kl_threshold'], 'fixed')} nats, "
            f"they lose {shown(figures['loss_increase'], 'fixed')} nats on average{part}."
        )
        rows = [
            WorstRow(
                row["context"],
                row["next_token"],
                f"{row['position']:,}",
                *(shown(row[key], "fixed") for key in ("clean", "spliced", "kl_divergence")),
            )
            for row in each.tables["worst"].slice(0, WORST_SHOWN).to_pylist()
        ]
        found.append(Worst(each.name, each.color, says, rows))
    return found


def _line(dictionary: TrainedDictionary, color: int, loss: str) -> breakdown_plots.Line:
    known = [(row["position"], row[loss]) for row in dictionary.tables["positions"].to_pylist() if row[loss] is not None]
    return breakdown_plots.Line(dictionary.name, color, [x for x, _ in known], [y for _, y in known])


def _ranges(dictionary: TrainedDictionary, color: int) -> breakdown_plots.Line:
    rows = [row for row in dictionary.tables["losses"].to_pylist() if row["predictions"] and row["kl_divergence"] is not None]
    middles = [(row["low"] + row["high"]) / 2 if np.isfinite(row["high"]) else row["low"] + 1 for row in rows]
    return breakdown_plots.Line(dictionary.name, color, middles, [row["kl_divergence"] for row in rows])


def _quantiles(dictionary: TrainedDictionary, color: int) -> breakdown_plots.Line | None:
    known = [value_at(dictionary.evaluation, f"kl_divergence.quantiles.{key}") for key in ("p50", "p90", "p99")]
    values = [value for value in known if value]
    return breakdown_plots.Line(dictionary.name, color, values, values) if len(values) == 3 else None
