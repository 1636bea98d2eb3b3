"""Plots of a run's record, with their captions."""

from dataclasses import dataclass

import numpy as np

from sae.report import plots
from sae.report.figures import LOSSES
from sae.report.gather import RunRecord, value_at
from sae.report.numbers import interval_of, shown

SCORE_LIMITS = (-0.25, 1.0)


@dataclass(frozen=True)
class Drawing:
    """A plot with what is said below it."""

    title: str
    caption: str
    svg: str


def cross_entropy(record: RunRecord) -> Drawing | None:
    """Cross-entropy clean, spliced and ablated of every dictionary on one axis."""
    names = dict(zip(("clean", "spliced", "mean", "zero"), LOSSES, strict=False))
    rows = []
    for dictionary in record.dictionaries:
        values = {name: value_at(dictionary.evaluation, figure.path) for name, figure in names.items()}
        if all(value is not None for value in values.values()):
            rows.append(plots.Dots(dictionary.name, dictionary.color, values))
    if not rows:
        return None
    caption = (
        "The untouched model, and the model with the reconstruction, the mean or zeros in the activation's place. "
        "The closer spliced is to clean, the less is lost."
    )
    return Drawing(
        "Cross-entropy with the activation replaced.", caption, plots.dot_rows("cross-entropy", rows, "cross-entropy (nats per prediction)")
    )


def density_histograms(record: RunRecord) -> list[Drawing]:
    """The density histogram of every dictionary, with the count of those that never fired."""
    drawings = []
    for dictionary in record.dictionaries:
        histogram = value_at(dictionary.evaluation, "density_histogram")
        if not histogram or not sum(histogram["counts"]):
            continue
        filled = np.flatnonzero(histogram["counts"])
        first, last = int(filled[0]), int(filled[-1])
        counts, edges = histogram["counts"][first : last + 1], histogram["log10_edges"][first : last + 2]
        svg = plots.density_histogram(f"density-{dictionary.color}", dictionary.color, edges, counts)
        total = sum(histogram["counts"]) + histogram["never"]
        tokens = value_at(dictionary.evaluation, "num_tokens")
        caption = f"{histogram['never']:,} of {total:,} features ({shown(histogram['never'] / total, 'share')}) never fired on {tokens:,} tokens."
        drawings.append(Drawing(f"{dictionary.name}.", caption, svg))
    return drawings


def score_distributions(record: RunRecord) -> list[Drawing]:
    """Explanation scores of every source: of all features, of those that fire on several tokens, of those that fire on one."""
    panels = (
        (None, "All.", "Each curve is scaled to its own peak; the dot is the median, the bar its 95 % interval over features, ticks the quartiles."),
        (False, "On several tokens.", "What an explanation must get right is harder here: the context decides."),
        (True, "On one token only.", "All 20 strongest examples peak on the same token, which is easy to explain."),
    )
    drawings = []
    for kind, title, caption in panels:
        samples = []
        for source in record.sources:
            scores = source.scores(kind)
            median = float(np.median(scores)) if len(scores) else None
            samples.append(plots.Sample(source.label, source.color, scores, median, interval_of(source, kind)))
        if any(len(sample.values) for sample in samples):
            svg = plots.score_distributions(f"scores-{kind}", samples, "explanation score (rank correlation)", SCORE_LIMITS)
            drawings.append(Drawing(title, caption, svg))
    return drawings
