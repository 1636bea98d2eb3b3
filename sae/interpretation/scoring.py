"""Scores: agreement of predicted with true activations, and the confidence interval of the median over features."""

import numpy as np

from sae.interpretation.examples.firings import FeatureFirings
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
    return pearson(ranks(predicted), ranks(true))


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, ties sharing their mean rank; along the last axis."""
    from scipy.stats import rankdata  # half a second of import, which every command would pay

    return np.asarray(rankdata(values, axis=-1))


def held_out_figures(nodes: np.ndarray, means: np.ndarray, counted: np.ndarray, firings: FeatureFirings, typical: float) -> dict[str, float]:
    """Measure how well an explanation predicts firing and activation on all tokens of a text.

    The prediction being one number for each node of the graph, all figures follow from what lies in each node: tokens n, firings k, sums of the
    activation S and of its ranks.

    Args:
        nodes: the node that holds at every token.
        means: what each node predicts.
        counted: which tokens count.
        firings: where the feature fires, all of them counted, and how strongly: at least once.
        typical: its mean activation when it fires; half of it says that it fires.

    Returns:
        Columns of `FEATURES_SCHEMA`.

    Reference: precision and recall of firing and the share of variance as in Neuron to Graph (Foote et al. 2023, arXiv 2305.19911), there with a
    threshold of half the maximum on both sides; here every firing counts.
    """
    positions, values = firings[0], firings[1].astype(np.float64)
    means, size, there = means.astype(np.float64), len(means), nodes[positions]
    tokens, fires = np.bincount(nodes[counted], minlength=size), np.bincount(there, minlength=size)
    sums = np.bincount(there, weights=values, minlength=size)
    said, total, zeros = means >= typical / 2, int(tokens.sum()), int(tokens.sum()) - len(values)
    hits = fires[said].sum()
    error = np.square(values).sum() - 2 * means @ sums + np.square(means) @ tokens
    variance = np.square(values).sum() - values.sum() ** 2 / total
    of_firings = ranks(values) + zeros
    true_ranks = np.bincount(there, weights=of_firings, minlength=size) + (tokens - fires) * (zeros + 1) / 2
    squared_ranks = np.square(of_firings).sum() + zeros * ((zeros + 1) / 2) ** 2
    node_ranks = _node_ranks(means, tokens)
    return {
        "firing_precision": float(hits / max(tokens[said].sum(), 1)),
        "firing_recall": float(hits / len(values)),
        "firing_f1": float(2 * hits / (tokens[said].sum() + len(values))),
        "variance_explained": float(1 - error / variance) if variance > 0 else 0.0,
        "score_all_tokens": _weighted_pearson(means, tokens, sums, np.square(values).sum()),
        "spearman_all_tokens": _weighted_pearson(node_ranks, tokens, true_ranks, squared_ranks),
    }


def _node_ranks(means: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """The rank that the tokens of each node share, nodes that predict the same sharing theirs."""
    _, group = np.unique(means, return_inverse=True)
    sizes = np.bincount(group, weights=tokens)
    return (np.cumsum(sizes) - (sizes - 1) / 2)[group]


def _weighted_pearson(predicted: np.ndarray, tokens: np.ndarray, true_sums: np.ndarray, true_squares: float) -> float:
    """Pearson of a prediction that is one number a node with values of which the sum in each node is known; 0 where either is constant."""
    total = tokens.sum()
    mean, true_mean = predicted @ tokens / total, true_sums.sum() / total
    variance = np.square(predicted - mean) @ tokens / total
    true_variance = true_squares / total - true_mean**2
    scale = np.sqrt(variance * max(true_variance, 0.0))
    return float((predicted - mean) @ true_sums / total / scale) if scale > 1e-12 else 0.0


def median_interval(scores: np.ndarray, seed: int, name: str) -> tuple[float, float]:
    """A 95 % percentile-bootstrap interval of the median, features being drawn with replacement."""
    draws = np.random.default_rng(draw_seed(seed, "bootstrap", name)).integers(0, len(scores), (BOOTSTRAP_DRAWS, len(scores)), dtype=np.uint32)
    low, high = np.quantile(np.median(scores[draws], axis=1), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
