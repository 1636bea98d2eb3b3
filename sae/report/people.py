"""Ratings of features by people, and their agreement with the automatic scores."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sae.errors import InputError
from sae.rating.agreement import ALL, EXPLANATION_SCORE, Agreement, Correlation, agreement_of
from sae.rating.deck import DECK_KEY
from sae.rating.rubric import MOST
from sae.report import plots
from sae.report.charts import Drawing
from sae.report.gather import RunRecord
from sae.report.numbers import Cell, shown, shown_interval
from sae.report.words import word_scores
from sae.storage import Place

Feature = tuple[str, int]


@dataclass(frozen=True)
class People:
    """The section on people.

    Attributes:
        lead: who rated how much.
        drawing: points by source.
        means: rows of (source, colour, cells: features, mean points).
        correlations: rows of (automatic score, cells: pairs, Pearson, Spearman) over the features of all sources.
        within: the same within each source.
        pairs: rows of (two raters, cells: features, Pearson, Spearman, mean difference).
        said: of each rated feature (rater, points, words).
    """

    lead: str
    drawing: Drawing
    means: list[tuple[str, int, list[Cell]]]
    correlations: list[tuple[str, list[Cell]]]
    within: list[tuple[str, list[Cell]]]
    pairs: list[tuple[str, list[Cell]]]
    said: dict[Feature, list[tuple[str, float, str]]]


def automatic_scores(run: Place, record: RunRecord) -> dict[str, dict[Feature, float]]:
    """The automatic scores of all examined features by name: that of the token patterns, and those of explanations in words."""
    scored = {
        (source.name, int(feature)): float(score)
        for source in record.sources
        for feature, score in zip(source.feature, source.score, strict=True)
        if not np.isnan(score)
    }
    return {EXPLANATION_SCORE: scored} | word_scores(run, record.sources)


def people_section(run: Place, record: RunRecord) -> tuple[People | None, str]:
    """The section, and what is to be said where there is none although there are ratings.

    Args:
        run: the run directory.
        record: what was gathered from it.
    """
    try:
        agreement = agreement_of(run, automatic_scores(run, record)) if run.exists(DECK_KEY) else None
    except InputError as error:
        return None, f"The ratings of this run are not compared: {error}."
    if agreement is None:
        return None, ""
    labels = {source.name: (source.label, source.color) for source in record.sources}
    order = [ALL, *labels]
    agreement.means.sort(key=lambda each: order.index(each.source))
    agreement.correlations.sort(key=lambda each: order.index(each.scope))
    told = [each for each in agreement.correlations if each.spearman is not None]
    means = [
        (*labels[each.source], [Cell(f"{each.num_features:,}"), Cell(shown(each.mean, "short"), shown_interval(each.interval, "short"))])
        for each in agreement.means
    ]
    correlations = [(each.measure, _cells(each)) for each in told if each.scope == ALL]
    within = [(f"{each.measure}, {labels[each.scope][0]}", _cells(each)) for each in told if each.scope != ALL]
    pairs = [
        (" and ".join(pair.raters), [*_cells(pair.correlation), Cell("–" if pair.mean_difference is None else shown(pair.mean_difference, "short"))])
        for pair in agreement.pairs
    ]
    said = {feature: [(each.rater, round(each.total, 1), each.interpretation) for each in ratings] for feature, ratings in agreement.ratings.items()}
    return People(_lead(agreement), _points(agreement, labels), means, correlations, within, pairs, said), ""


def _lead(agreement: Agreement) -> str:
    raters = ", ".join(f"{rater} {number}" for rater, number in agreement.raters.items() if number)
    return (
        f"People saw examples and effects of a feature, but neither its source nor any explanation or score, said what it stands for and graded "
        f"their answer: 0 to {MOST} points. Cards rated of {agreement.num_cards:,}: {raters}. A feature counts once, with the mean of its raters."
    )


def _points(agreement: Agreement, labels: Mapping[str, tuple[str, int]]) -> Drawing:
    samples = []
    for each in agreement.means:
        label, color = labels[each.source]
        samples.append(plots.Sample(label, color, np.array(each.points), each.mean, each.interval))
    svg = plots.points_by_source("points", samples, f"points of {MOST}", (0, MOST))
    return Drawing("Points by source.", "Each small dot is a feature; the large dot is the mean, the bar its 95 % interval over features.", svg)


def _cells(correlation: Correlation) -> list[Cell]:
    return [
        Cell(f"{correlation.num_pairs:,}"),
        Cell(shown(correlation.pearson, "fixed"), shown_interval(correlation.pearson_interval, "fixed")),
        Cell(shown(correlation.spearman, "fixed"), shown_interval(correlation.spearman_interval, "fixed")),
    ]
