"""Differences between the explanation scores of two sources, with their noise."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sae.interpretation.sampling import draw_seed
from sae.interpretation.scoring import BOOTSTRAP_DRAWS, CONFIDENCE
from sae.report.gather import ExplainedSource, Json, RunRecord
from sae.report.numbers import NONE, Cell, shown

PARTS = {
    "all": (None, "All features"),
    "multiple_tokens": (False, "Features that fire on several tokens"),
    "single_token": (True, "Single-token features"),
}


@dataclass(frozen=True)
class Against:
    """One source set against every dictionary; `noise` says for each cell whether the difference is within noise."""

    name: str
    color: int
    cells: list[Cell]
    noise: list[bool]


@dataclass(frozen=True)
class Comparison:
    """The table of differences for one part of the features."""

    title: str
    dictionaries: list[str]
    rows: list[Against]


def comparisons(record: RunRecord) -> list[Comparison]:
    """For all, several-token and single-token features: each dictionary's median score less that of every other source.

    Taken from `comparison.json` where the interpretation left one, else drawn here: the 95 % percentile-bootstrap interval of the difference of
    medians, features of either side being drawn with replacement.
    """
    ours = [source for source in record.sources if not source.control and len(source.scores())]
    known = {(row["dictionary"], row["source"], row["features"]): row for row in (record.comparison or {}).get("rows", [])}
    tables = []
    for part, (single, title) in PARTS.items():
        rows = [_against(other, ours, part, single, known) for other in record.sources if len(record.sources) > 1]
        told = [row for row in rows if any(cell.value != NONE for cell in row.cells)]
        if told:
            tables.append(Comparison(title, [source.label for source in ours], told))
    return tables


def _against(
    other: ExplainedSource, ours: list[ExplainedSource], part: str, single: bool | None, known: Mapping[tuple[str, str, str], Json]
) -> Against:
    cells, noise = [], []
    for dictionary in ours:
        row = known.get((dictionary.name, other.name, part)) or _turned(known.get((other.name, dictionary.name, part)))
        row = row or _difference(dictionary, other, part, single)
        if dictionary is other or row["difference"] is None:
            cells.append(Cell())
            noise.append(False)
            continue
        within = bool(row["within_noise"])
        low, high = (_signed(value) for value in row["interval"])
        cells.append(Cell("within noise" if within else _signed(row["difference"]), f"{low} to {high}"))
        noise.append(within)
    return Against(other.label, other.color, cells, noise)


def _turned(row: Json | None) -> Json | None:
    """The same difference seen from the other side."""
    if row is None or row["difference"] is None:
        return row
    low, high = row["interval"]
    return row | {"difference": -row["difference"], "interval": [-high, -low]}


def _difference(one: ExplainedSource, other: ExplainedSource, part: str, single: bool | None) -> Json:
    first, second = one.scores(single), other.scores(single)
    if not len(first) or not len(second):
        return {"difference": None}
    medians = []
    for source, scores in ((one, first), (other, second)):
        draw = np.random.default_rng(draw_seed("comparison", source.name, part))
        medians.append(np.median(scores[draw.integers(0, len(scores), (BOOTSTRAP_DRAWS, len(scores)), dtype=np.uint32)], axis=1))
    low, high = np.quantile(medians[0] - medians[1], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]).tolist()
    return {"difference": float(np.median(first) - np.median(second)), "interval": [low, high], "within_noise": low <= 0 <= high}


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + shown(value, "fixed")
