"""Quality of explanations on the whole held-out text, and neighbours of a feature: the table, and the rows of the feature cards."""

from collections.abc import Collection
from typing import Any

from sae.report.figures import HELD_OUT
from sae.report.gather import ExplainedSource, RunRecord, value_at
from sae.report.numbers import Cell, ScoreRow, shown

SUMMARY_KEY = "held_out_medians"
ON_CARDS = ("firing_precision", "firing_recall", "firing_f1", "variance_explained")
NEAR = {"co_firing": "phi", "similar": "cosine"}
COLUMNS = ("precision", "recall", "F1", "variance explained", "Pearson", "Spearman", "on hard negatives")


def held_out_rows(record: RunRecord) -> list[ScoreRow]:
    """Medians over features, a row for each source and a cell for each of `COLUMNS`."""
    return [ScoreRow(source.label, source.color, _medians(source)) for source in record.sources]


def packed_figures(row: dict[str, Any]) -> list[float] | None:
    """Precision, recall and F1 of firing and the variance explained, of one feature; None where they were not measured."""
    values = [row[column] for column in ON_CARDS]
    return None if None in values else [round(value, 3) for value in values if value is not None]


def packed_near(row: dict[str, Any], known: Collection[int]) -> list[list[list[float]]]:
    """The features of `known` that fire with this one [feature, phi], and those whose directions are like its own [feature, cosine]."""
    return [[[each["feature"], round(each[key], 2)] for each in row[column] or [] if each["feature"] in known] for column, key in NEAR.items()]


def _medians(source: ExplainedSource) -> list[Cell]:
    return [Cell(shown(value_at(source.summary, f"{SUMMARY_KEY}.{figure.path}"), figure.style)) for figure in HELD_OUT]
