"""How well predicted activations agree with true ones, and how sure one may be of the median over features."""

import numpy as np
from scipy.stats import rankdata

from sae.interpretation.sampling import draw_seed

DIGITS = 9
BOOTSTRAP_DRAWS = 2000
CONFIDENCE = 0.95


def quantised(activations: np.ndarray, maximum: float) -> np.ndarray:
    """Activations as digits 0 to 9, `round(9 a / maximum)`, larger ones counting as 9.

    Reference: Towards Monosemanticity, automated interpretability: predictions and true activations are compared as such digits.
    Without them a score would hang on the order of values that are all but zero.
    """
    return np.clip(np.rint(activations.astype(np.float64) * (DIGITS / maximum)), 0, DIGITS)


def pearson(predicted: np.ndarray, true: np.ndarray) -> float:
    """Pearson correlation; 0 where either side is constant, since a constant prediction explains nothing.

    Reference: constant predictions count as 0 as in Towards Monosemanticity, automated interpretability.
    """
    predicted, true = predicted.astype(np.float64), true.astype(np.float64)
    predicted, true = predicted - predicted.mean(), true - true.mean()
    scale = np.sqrt(predicted @ predicted * (true @ true))
    return float(predicted @ true / scale) if scale > 1e-12 * len(true) else 0.0


def spearman(predicted: np.ndarray, true: np.ndarray) -> float:
    """Spearman correlation: Pearson of the ranks, ties sharing their mean rank; 0 where either side is constant."""
    return pearson(rankdata(predicted), rankdata(true))


def sparse_pearson(predicted: np.ndarray, counted: np.ndarray, positions: np.ndarray, values: np.ndarray) -> float:
    """Pearson correlation over all counted tokens of a text, the true activation being 0 but at `positions`.

    Args:
        predicted: for every token of the text.
        counted: which tokens count.
        positions: where the feature fires; all of them counted.
        values: how strongly.
    """
    predicted, values, size = (predicted * counted).astype(np.float64), values.astype(np.float64), int(counted.sum())
    mean, true_mean = predicted.sum() / size, values.sum() / size
    # Sums rather than `@`: for a text's worth of numbers BLAS starts threads, which takes longer than adding them up.
    variance = max(0.0, np.square(predicted).sum() / size - mean**2) * max(0.0, np.square(values).sum() / size - true_mean**2)
    covariance = (predicted[positions] * values).sum() / size - mean * true_mean
    return float(covariance / np.sqrt(variance)) if variance > 1e-24 else 0.0


def median_interval(scores: np.ndarray, seed: int, name: str) -> tuple[float, float]:
    """A 95 % percentile-bootstrap interval of the median, features being drawn with replacement."""
    draws = np.random.default_rng(draw_seed(seed, "bootstrap", name)).integers(0, len(scores), (BOOTSTRAP_DRAWS, len(scores)), dtype=np.uint32)
    low, high = np.quantile(np.median(scores[draws], axis=1), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
