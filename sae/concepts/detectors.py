"""Detectors of a label: a single unit above a threshold, or a k-sparse probe; selected on one half of the tokens, measured on the other.

A unit is a feature, or a neuron. A neuron that goes below zero is two units, one for each sign: a feature cannot go below zero, and the
neurons shall not be the weaker for it.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csc_array

SMALL = 1e-12


@dataclass(frozen=True)
class Units:
    """Activations of units on the drawn tokens.

    Attributes:
        values: float32 `[tokens, units]`, never negative, no zero stored.
        ids: int64 `[units]`, the feature's or neuron's index.
        signs: int8 `[units]`, 1, or -1 where the unit is what a neuron has below zero.
    """

    values: csc_array
    ids: np.ndarray
    signs: np.ndarray


@dataclass(frozen=True)
class Detector:
    """A way to tell a label: the score of a token is above the threshold.

    Attributes:
        kind: `single`, or `probe_K`.
        units: columns of `Units`.
        threshold: of the score.
        selection_f1: F1 on the half it was selected on.
        scores: float64 `[tokens]`, of all tokens of both halves.
    """

    kind: str
    units: np.ndarray
    threshold: float
    selection_f1: float
    scores: np.ndarray


def feature_units(features: csc_array) -> Units:
    """Features as units, one each."""
    return Units(features, np.arange(features.shape[1]), np.ones(features.shape[1], np.int8))


def neuron_units(activations: np.ndarray) -> Units:
    """Neurons as units: what each has above zero, and, where any goes below, what it has there. `activations` is `[tokens, d_in]`."""
    above, below = csc_array(np.maximum(activations, 0)), csc_array(np.maximum(-activations, 0))
    width = activations.shape[1]
    if below.nnz == 0:
        return Units(above, np.arange(width), np.ones(width, np.int8))
    from scipy.sparse import hstack

    return Units(hstack([above, below], format="csc"), np.tile(np.arange(width), 2), np.repeat(np.array([1, -1], np.int8), width))


def best_single(units: Units, label_ids: np.ndarray, selection: np.ndarray, num_labels: int) -> list[Detector]:
    """For each label the unit and threshold with the highest F1 on the selection half; of equal ones the first unit, the higher threshold.

    A unit detects a label on tokens where it is above a threshold t >= 0; every t that tells two tokens apart is tried.

    Args:
        units: on the tokens of both halves.
        label_ids: int64 `[tokens]`.
        selection: bool `[tokens]`, the half to select on.
        num_labels: labels.
    """
    totals = np.bincount(label_ids[selection], minlength=num_labels)
    best = np.full(num_labels, -1.0)
    columns, thresholds = np.zeros(num_labels, np.int64), np.zeros(num_labels)
    pointers, rows, values = units.values.indptr, units.values.indices, units.values.data
    for column in range(units.values.shape[1]):
        part = slice(pointers[column], pointers[column + 1])
        chosen = selection[rows[part]]
        if not chosen.any():
            continue
        scores, at = _f1_by_threshold(values[part][chosen], label_ids[rows[part][chosen]], totals)
        better = scores > best
        best, columns, thresholds = np.where(better, scores, best), np.where(better, column, columns), np.where(better, at, thresholds)
    return [
        Detector("single", columns[label : label + 1], float(thresholds[label]), max(float(best[label]), 0.0), _column(units.values, columns[label]))
        for label in range(num_labels)
    ]


def sparse_probes(units: Units, label_ids: np.ndarray, selection: np.ndarray, num_labels: int, size: int) -> list[Detector]:
    """For each label a logistic regression on `size` units: those whose means on and off the label differ most, on the selection half.

    Units are divided by their standard deviation before the fit. The threshold is that of the highest F1 on the selection half.

    Reference: Gurnee et al. 2023, "Finding Neurons in a Haystack" (arXiv 2305.01610), section 3, maximum mean difference; SAEBench's sparse
    probing selects in the same way.
    """
    from sklearn.linear_model import LogisticRegression  # a second of import, for those who ask for it

    chosen = units.values.tocsr()[selection]
    labels = label_ids[selection]
    totals = np.bincount(labels, minlength=num_labels)
    sums = np.stack([np.asarray(chosen[labels == label].sum(0)).ravel() for label in range(num_labels)])
    probes = []
    for label in range(num_labels):
        others = max(int(totals.sum() - totals[label]), 1)
        difference = np.abs(sums[label] / max(totals[label], 1) - (sums.sum(0) - sums[label]) / others)
        picked = np.argsort(-difference, kind="stable")[:size]
        columns = np.stack([_column(units.values, column) for column in picked], axis=1)
        scaled = columns / np.maximum(columns[selection].std(0), SMALL)
        model = LogisticRegression(max_iter=1000).fit(scaled[selection], labels == label)
        scores = np.asarray(model.decision_function(scaled))
        found, threshold = _f1_by_threshold(scores[selection], (labels == label).astype(np.int64), np.array([0, totals[label]]), floor=None)
        probes.append(Detector(f"probe_{size}", picked, float(threshold[1]), float(found[1]), scores))
    return probes


def _f1_by_threshold(values: np.ndarray, labels: np.ndarray, totals: np.ndarray, floor: float | None = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """The highest F1 of each label over all thresholds on one unit, and the threshold: halfway between two values, or `floor` below all."""
    order = np.argsort(-values, kind="stable")
    values = values[order].astype(np.float64)
    hits = np.cumsum(labels[order][:, None] == np.arange(len(totals)), axis=0)
    f1 = 2 * hits / (np.arange(1, len(values) + 1)[:, None] + totals)
    f1[np.append(values[1:] == values[:-1], False)] = -1  # equal values cannot be told apart
    at = f1.argmax(0)
    following = np.append(values[1:], values[-1] - 1 if floor is None else floor)
    below = np.where(at == len(values) - 1, following[-1], (values[at] + following[at]) / 2)
    return f1[at, np.arange(len(totals))], below


def _column(values: csc_array, column: int) -> np.ndarray:
    part = slice(values.indptr[column], values.indptr[column + 1])
    found = np.zeros(values.shape[0])
    found[values.indices[part]] = values.data[part]
    return found
