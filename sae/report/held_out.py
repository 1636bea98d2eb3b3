"""How well explanations foretell the whole held-out text, and which features stand near a feature: the table, and what the feature cards show."""

from collections.abc import Collection
from typing import Any

import pyarrow as pa

from sae.errors import InputError
from sae.report.figures import HELD_OUT
from sae.report.gather import ExplainedSource, RunRecord
from sae.report.numbers import Cell, ScoreRow, shown

SUMMARY_KEY = "held_out_medians"
ON_CARDS = ("firing_precision", "firing_recall", "firing_f1", "variance_explained")
NEAR = {"co_firing": "phi", "similar": "cosine"}
COLUMNS = ("precision", "recall", "F1", "variance explained", "Pearson", "Spearman", "on hard negatives")


def held_out_rows(record: RunRecord) -> list[ScoreRow]:
    """Medians over features, a row for each source and a cell for each of `COLUMNS`; without sources interpreted before there were such figures.

    Raises:
        InputError: a summary holds only some of them.
    """
    told = [source for source in record.sources if source.summary.get(SUMMARY_KEY) is not None]
    return [ScoreRow(source.label, source.color, _medians(source)) for source in told]


def check_columns(table: pa.Table, path: str) -> None:
    """Columns of one kind are all there or, in runs of older releases, none.

    Raises:
        InputError: some are missing, or hold something else.
    """
    for columns in (ON_CARDS, tuple(NEAR)):
        absent = [column for column in columns if column not in table.column_names]
        if absent and len(absent) < len(columns):
            raise InputError(f"{path} has no column {', '.join(absent)}: interpret again with this release, or remove it")
    numbers = {column: pa.types.is_floating(table.schema.field(column).type) for column in ON_CARDS if column in table.column_names}
    lists = {column: _names_features(table.schema.field(column).type, key) for column, key in NEAR.items() if column in table.column_names}
    wrong = [column for column, right in (numbers | lists).items() if not right]
    if wrong:
        raise InputError(f"{path} holds something else than this release writes in {', '.join(wrong)}: interpret again, or remove it")


def packed_figures(row: dict[str, Any]) -> list[float] | None:
    """Precision, recall and F1 of firing and the variance explained, of one feature; None where they were not measured."""
    values = [row.get(column) for column in ON_CARDS]
    return None if None in values else [round(value, 3) for value in values if value is not None]


def packed_near(row: dict[str, Any], known: Collection[int]) -> list[list[list[float]]]:
    """The features of `known` that fire with this one [feature, phi], and those whose directions are like its own [feature, cosine]."""
    return [[[each["feature"], round(each[key], 2)] for each in row.get(column) or [] if each["feature"] in known] for column, key in NEAR.items()]


def _medians(source: ExplainedSource) -> list[Cell]:
    medians = source.summary[SUMMARY_KEY]
    absent = [figure.path for figure in HELD_OUT if figure.path not in medians] if isinstance(medians, dict) else [SUMMARY_KEY]
    if absent:
        raise InputError(f"interpretation/{source.name}/summary.json lacks {', '.join(absent)}: interpret again with this release, or remove it")
    return [Cell(shown(medians[figure.path], figure.style)) for figure in HELD_OUT]


def _names_features(kind: pa.DataType, key: str) -> bool:
    return pa.types.is_list(kind) and pa.types.is_struct(kind.value_type) and {"feature", key} <= {field.name for field in kind.value_type}
