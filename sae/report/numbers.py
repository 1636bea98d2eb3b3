"""The numbers of the report as its tables show them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sae.report.figures import EXPLAINED, GROUPS, LOSSES, OF_CLUSTERS, SPARSITY, ULTRA_LOW, Figure
from sae.report.gather import ExplainedSource, Json, RunRecord, TrainedDictionary, figure_of, value_at

NONE = "–"
CLUSTERS = "density_clusters"
WITH_INTERVAL = ("loss_recovered_zero", "loss_recovered_mean")


@dataclass(frozen=True)
class Cell:
    """A number as it is shown, with its 95 % interval where there is one."""

    value: str = NONE
    interval: str = ""


@dataclass(frozen=True)
class Row:
    """A figure with its value for every dictionary."""

    name: str
    says: str
    formula: str
    cells: list[Cell]


@dataclass(frozen=True)
class Group:
    """Rows that belong together."""

    title: str
    figures: list[Row]


@dataclass(frozen=True)
class ScoreRow:
    """The explanation scores of one source, summed up."""

    name: str
    color: int
    cells: list[Cell]


def interval_at(evaluation: Json | None, path: str) -> tuple[float, float] | None:
    """The 95 % interval of a figure of the evaluation; None for those that have none."""
    interval = value_at(evaluation, f"{path}_interval") if path in WITH_INTERVAL else None
    return None if interval is None else (interval[0], interval[1])


def groups_of_numbers(record: RunRecord) -> list[Group]:
    """The table of numbers; empty where nothing was evaluated or interpreted."""
    if all(dictionary.evaluation is None for dictionary in record.dictionaries) and not record.sources:
        return []
    sources = {source.name: source for source in record.sources}
    groups = {**GROUPS, "Cross-entropy and perplexity": LOSSES} if any(each.evaluation for each in record.dictionaries) else {}
    shapes = [_shape_cell(each) for each in record.dictionaries]
    shape = Row("Architecture", "Kind of dictionary; below it activation width → number of features.", "", shapes)
    tables = [Group("What it is", [shape])]
    for title, figures in groups.items():
        rows = [_row(figure, record.dictionaries) for figure in figures]
        tables.append(Group(title, rows + (_cluster_rows(record.dictionaries) if title == SPARSITY else [])))
    if sources:
        medians = [_median_cell(sources.get(each.name)) for each in record.dictionaries]
        tables.append(Group("How well features are explained", [Row(EXPLAINED.name, EXPLAINED.says, EXPLAINED.formula, medians)]))
    return tables


def interval_of(source: ExplainedSource, single_token: bool | None = None) -> tuple[float, float] | None:
    """95 % bootstrap interval of the median score over features; None for fewer than two scores."""
    scores = source.scores(single_token)
    if len(scores) < 2:
        return None
    part = {None: source.summary, True: source.summary["single_token"], False: source.summary["multiple_tokens"]}[single_token]
    low, high = value_at(part, "explanation_score_interval")
    return low, high


SCORE_COLUMNS = ("scored", "all", "several tokens", "one token only", "share one token")


def score_rows(record: RunRecord) -> list[ScoreRow]:
    """Medians of the explanation scores of every source: all, and by whether a feature fires on a single token."""
    rows = []
    for source in record.sources:
        scored, single = len(source.scores()), len(source.scores(single_token=True))
        cells = [
            Cell(f"{scored:,}", f"of {len(source.feature):,} examined"),
            *(_score_cell(source, kind) for kind in (None, False, True)),
            Cell(shown(single / scored, "share") if scored else NONE),
        ]
        rows.append(ScoreRow(source.label, source.color, cells))
    return rows


def shown(value: float | None, style: str) -> str:
    """A number in the style of its figure."""
    if value is None:
        return NONE
    if style == "share":
        text = f"{100 * value:.{1 if 0.1 <= abs(value) < 0.99 else 2}f} %"
    elif style == "fixed":
        text = f"{value:.3f}" if abs(value) >= 0.01 or value == 0 else f"{value:.2g}"
    else:
        text = f"{value:,.2f}" if abs(value) < 100 else f"{value:,.0f}"
    return text.replace("-", "−")


def shown_interval(interval: Sequence[float] | None, style: str) -> str:
    """Both ends of an interval."""
    return f"{shown(interval[0], style).removesuffix(' %')} to {shown(interval[1], style)}" if interval else ""


def _row(figure: Figure, dictionaries: list[TrainedDictionary]) -> Row:
    cells = [
        Cell(shown(figure_of(each, figure.path), figure.style), shown_interval(interval_at(each.evaluation, figure.path), figure.style))
        for each in dictionaries
    ]
    return Row(figure.name, figure.says, figure.formula, cells)


def _cluster_rows(dictionaries: list[TrainedDictionary]) -> list[Row]:
    """Count the features in the cluster and, where a dictionary has one, give the medians of it and of the others; empty before an evaluation."""
    if all(each.evaluation is None for each in dictionaries):
        return []
    found = [_clusters(each) for each in dictionaries]
    counts = [_count_cell(each, pair) for each, pair in zip(dictionaries, found, strict=True)]
    rows = [Row(ULTRA_LOW.name, ULTRA_LOW.says, ULTRA_LOW.formula, counts)]
    for figure in OF_CLUSTERS if any(low for low, _ in found) else ():
        cells = [
            Cell(shown(low[figure.path], figure.style), f"others {shown(rest[figure.path], figure.style)}") if low else Cell() for low, rest in found
        ]
        rows.append(Row(figure.name, figure.says, figure.formula, cells))
    return rows


def _clusters(dictionary: TrainedDictionary) -> tuple[Json, Json]:
    """The cluster and the others; both empty where there is one mode, or no evaluation."""
    clusters = value_at(dictionary.evaluation, CLUSTERS)
    return (clusters["ultra_low"], clusters["others"]) if clusters else ({}, {})


def _count_cell(dictionary: TrainedDictionary, found: tuple[Json, Json]) -> Cell:
    low, others = found
    if low:
        count = low["num_features"]
        return Cell(shown(count / (count + others["num_features"]), ULTRA_LOW.style), f"{count:,} features")
    return Cell("none") if dictionary.evaluation else Cell()


def _median_cell(source: ExplainedSource | None) -> Cell:
    if source is None:
        return Cell()
    interval = value_at(source.summary, "explanation_score_interval")
    return Cell(shown(value_at(source.summary, "explanation_score_median"), "fixed"), shown_interval(interval, "fixed"))


def _score_cell(source: ExplainedSource, single_token: bool | None) -> Cell:
    scores = source.scores(single_token)
    if not len(scores):
        return Cell()
    return Cell(shown(float(np.median(scores)), "fixed"), shown_interval(interval_of(source, single_token), "fixed"))


def _shape_cell(dictionary: TrainedDictionary) -> Cell:
    config = dictionary.config
    return Cell(config["architecture"], f"{config['d_in']:,} → {config['config']['d_sae']:,}") if config else Cell()


def dollars(value: float) -> str:
    """An amount of US dollars; two digits where it is less than a cent."""
    return f"${value:,.2f}" if value >= 0.01 or value == 0 else f"${value:.2g}"
