"""Metrics of a detector on the held-out half: F1 and its parts, an interval, and agreement with the proxy."""

import numpy as np
from pydantic import Field

from sae.concepts.detectors import Detector
from sae.config import Config
from sae.shares import ratio

BOOTSTRAP_SAMPLES = 1000

Interval = tuple[float, float]


class DetectorFigures(Config):
    """One detector of one label, measured on held-out tokens."""

    label: str
    kind: str = Field(description="`single` unit, or `probe_K` of K units")
    units: list[int] = Field(description="features or neurons")
    signs: list[int] = Field(description="-1 where a neuron detects by what it has below zero")
    threshold: float = Field(description="the score above which a token has the label; a single unit's score is its activation")
    selection_f1: float = Field(description="F1 on the half it was selected on; the difference to f1 is what selection flatters")
    f1: float = Field(description="2 · precision · sensitivity / (precision + sensitivity); 0 where nothing is found")
    f1_interval: Interval = Field(description="95 % bootstrap interval over held-out sequences")
    precision: float | None = Field(description="of tokens above the threshold, the share that has the label; null where there are none")
    sensitivity: float = Field(description="of tokens with the label, the share above the threshold")
    specificity: float = Field(description="of tokens without the label, the share not above the threshold")
    precision_at_half_maximum: float | None = Field(description="precision above half of the largest score; null for probes")
    proxy_correlation: float | None = Field(description="Pearson, of score and log-likelihood ratio of the label over held-out tokens")


class KindFigures(Config):
    """Detectors of one kind over all labels."""

    mean_f1: float
    mean_f1_interval: Interval = Field(description="95 % bootstrap interval over held-out sequences")
    minus_neurons: float | None = Field(None, description="mean F1 less that of the neurons' detectors of the same kind")
    minus_neurons_interval: Interval | None = Field(None, description="95 % bootstrap interval of that difference, sequences drawn for both alike")


def confusion_by_sequence(detected: np.ndarray, present: np.ndarray, rows: np.ndarray, num_rows: int) -> np.ndarray:
    """True positives, false positives, false negatives and true negatives of each sequence: int64 `[sequences, 4]`."""
    cases = np.select([detected & present, detected, present], [0, 1, 2], 3)
    return np.bincount(rows * 4 + cases, minlength=4 * num_rows).reshape(num_rows, 4)


def f1_of(counts: np.ndarray) -> np.ndarray:
    """`2 TP / (2 TP + FP + FN)`, 0 where there is nothing; `counts` is `[..., 4]`."""
    found, wrong, missed = counts[..., 0], counts[..., 1], counts[..., 2]
    return np.asarray(2 * found / np.maximum(2 * found + wrong + missed, 1))


def resampled(label_ids: np.ndarray, seed: int) -> np.ndarray:
    """Count how often each sequence is drawn in each bootstrap sample, float64 `[samples, sequences]`: with replacement within each label."""
    draw = np.random.default_rng(seed)
    weights = np.zeros((BOOTSTRAP_SAMPLES, len(label_ids)))
    for label in np.unique(label_ids):
        members = np.flatnonzero(label_ids == label)
        weights[:, members] = draw.multinomial(len(members), np.full(len(members), 1 / len(members)), size=BOOTSTRAP_SAMPLES)
    return weights


def interval(samples: np.ndarray) -> Interval:
    """The 95 % percentile interval."""
    low, high = np.quantile(samples, [0.025, 0.975])
    return float(low), float(high)


def detector_figures(
    detector: Detector, names: tuple[str, np.ndarray, np.ndarray], counts: np.ndarray, f1_samples: np.ndarray, held_out: tuple[np.ndarray, ...]
) -> DetectorFigures:
    """The figures of one detector.

    Args:
        detector: what was selected.
        names: the label; ids and signs of the detector's units.
        counts: `confusion_by_sequence` of the held-out sequences.
        f1_samples: F1 of each bootstrap sample.
        held_out: the detector's scores, whether the label is present, and the proxy, of held-out tokens.
    """
    scores, present, proxy = held_out
    found, wrong, missed, rest = (int(count) for count in counts.sum(0))
    strong = scores > scores.max() / 2 if detector.kind == "single" and scores.max() > 0 else np.zeros(len(scores), bool)
    label, ids, signs = names
    return DetectorFigures(
        label=label,
        kind=detector.kind,
        units=ids.tolist(),
        signs=signs.tolist(),
        threshold=detector.threshold,
        selection_f1=detector.selection_f1,
        f1=float(f1_of(counts.sum(0))),
        f1_interval=interval(f1_samples),
        precision=ratio(found, found + wrong),
        sensitivity=found / max(found + missed, 1),
        specificity=rest / max(wrong + rest, 1),
        precision_at_half_maximum=float(present[strong].mean()) if strong.any() else None,
        proxy_correlation=pearson(scores, proxy),
    )


def pearson(one: np.ndarray, other: np.ndarray) -> float | None:
    """Pearson's correlation; None where one of them does not vary."""
    one, other = one - one.mean(), other - other.mean()
    return ratio(float(one @ other), float(np.sqrt((one @ one) * (other @ other))))
