"""Which plots a run's record gives, with their captions."""

from dataclasses import dataclass

import numpy as np

from sae.report import plots
from sae.report.gather import RunRecord, TrainedDictionary, value_at
from sae.report.numbers import LOSSES, interval_of, shown

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


def training_curves(record: RunRecord) -> list[Drawing]:
    """Loss, FVU, L0 and dead fraction over the vectors seen, all dictionaries in each panel."""
    logged = [dictionary for dictionary in record.dictionaries if dictionary.log]
    if not logged:
        return []
    panels = (
        ("loss", "Total loss.", "Mean per step, with its sparsity terms; of use within an architecture, not between two.", "losses.total"),
        ("fvu", "FVU.", "Fraction of variance unexplained, over the vectors since the point before.", "fvu"),
        ("l0", "L0.", "Features that fire on a vector, on average.", "l0"),
        ("dead", "Dead features.", "Share of features silent for the dead window.", "dead_fraction"),
    )
    labels = {"loss": "loss", "fvu": "FVU", "l0": "features per vector", "dead": "dead features"}
    drawings = []
    for key, title, caption, path in panels:
        series = [_series(dictionary, path) for dictionary in logged]
        drawn = [each for each in series if each.x]
        if drawn:
            svg = plots.curves(f"training-{key}", drawn, labels[key], log=key != "dead", percent=key == "dead")
            drawings.append(Drawing(title, caption, svg))
    return drawings


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
        (None, "All.", "Each curve is scaled to its own peak; the dot is the median, the bar its 95 % interval."),
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


def _series(dictionary: TrainedDictionary, path: str) -> plots.Series:
    points = [(row["vectors"], value_at(row, path)) for row in dictionary.log]
    known = [(float(x), float(y)) for x, y in points if y is not None]
    marks = [float(event["vectors"]) for event in dictionary.events if event.get("event") == "resampled"]
    return plots.Series(dictionary.color, [x for x, _ in known], [y for _, y in known], marks)
