"""Scores of an explanation from a scorer's answers. Items without a readable answer are left out of a score and counted beside it.

==================  ======================================================================================================  ======
score               formula                                                                                                 chance
==================  ======================================================================================================  ======
simulation          Spearman and Pearson of predicted and true digits 0 to 9 over all tokens; 0 where either is constant    0
importance          the same predictions, Spearman with weights: 1 for tokens of random examples, density x P(interval)      0
                    for those of interval examples, 0 for the rest; most weight lies on zeros: report it, do not rank by it
detection, fuzzing  balanced accuracy: (TP / (TP + FN) + TN / (TN + FP)) / 2; F1 = 2 TP / (2 TP + FP + FN)                   0.5
… hard              the same firing examples against the hard negatives, where features like this one fire                  0.5
logits              balanced accuracy over 50 tokens at ranks 11 to 60 of the logit effects and 50 random ones              0.5
==================  ======================================================================================================  ======

References: Bills et al. 2023 (simulation); Bricken et al. 2023, *Towards Monosemanticity*, automated interpretability (digits, constant
predictions, importance, logit test); Paulo et al. 2024, arXiv 2410.13928 (detection, fuzzing).
"""

from typing import Any

import numpy as np

from sae.interpretation.language_model.config import ScorerName
from sae.interpretation.language_model.material import FeatureMaterial
from sae.interpretation.language_model.questions import Item
from sae.interpretation.scoring import pearson, spearman

CHANCE = {
    "simulation_spearman": 0.0,
    "simulation_pearson": 0.0,
    "importance_spearman": 0.0,
    "detection_accuracy": 0.5,
    "detection_hard_accuracy": 0.5,
    "fuzzing_accuracy": 0.5,
    "fuzzing_hard_accuracy": 0.5,
    "logits_accuracy": 0.5,
}
LEAST_READ = 0.5  # share of a scorer's items that must have a readable answer for a score to be given

Answers = list[list[int] | None]


def scores_of(scorer: ScorerName, items: list[Item], answers: Answers, material: FeatureMaterial) -> dict[str, Any]:
    """The columns that a scorer fills; none where fewer than half of its items have an answer."""
    read = [(item, answer) for item, answer in zip(items, answers, strict=True) if answer is not None]
    if len(read) < LEAST_READ * len(items):
        return {}
    if scorer == "simulation":
        return _simulation(read, material)
    counts = confusion(read)
    found = {f"{scorer}_accuracy": balanced_accuracy(counts), f"{scorer}_f1": f1(counts)}
    return found if scorer == "logits" else found | {f"{scorer}_hard_accuracy": balanced_accuracy(confusion(read, hard=True))}


def confusion(read: list[tuple[Item, list[int]]], hard: bool = False) -> dict[str, int]:
    """Count the labelled items that are judged correctly and wrongly; the silent ones are the hard negatives, or all others."""
    counted = [(item, answer) for item, answer in read if item.truth == [1] or item.hard == hard]
    truth, said = (
        np.array([label for [label] in labels], bool) for labels in ([item.truth for item, _ in counted], [answer for _, answer in counted])
    )
    return {
        "true_positive": int((truth & said).sum()),
        "false_positive": int((~truth & said).sum()),
        "true_negative": int((~truth & ~said).sum()),
        "false_negative": int((truth & ~said).sum()),
    }


def balanced_accuracy(counts: dict[str, int]) -> float | None:
    """Mean of the shares of firing and of silent items that were told right; None where one kind is missing."""
    firing, silent = counts["true_positive"] + counts["false_negative"], counts["true_negative"] + counts["false_positive"]
    return (counts["true_positive"] / firing + counts["true_negative"] / silent) / 2 if firing and silent else None


def f1(counts: dict[str, int]) -> float:
    """Harmonic mean of precision and recall; 0 where nothing was found."""
    found = 2 * counts["true_positive"]
    return found / max(1, found + counts["false_positive"] + counts["false_negative"])


def weighted_spearman(predicted: np.ndarray, true: np.ndarray, weights: np.ndarray) -> float:
    """Pearson correlation with weights of the weighted mid-ranks: the weight below a value plus half of the weight at it.

    With equal weights it is Spearman's correlation. 0 where either side is constant.
    """
    predicted, true = (_weighted_ranks(values, weights) for values in (predicted, true))
    total = weights.sum()
    if total <= 0:
        return 0.0
    predicted, true = predicted - weights @ predicted / total, true - weights @ true / total
    scale = np.sqrt((weights @ predicted**2) * (weights @ true**2))
    return float(weights @ (predicted * true) / scale) if scale > 1e-12 * total**3 else 0.0


def importance_weights(read: list[tuple[Item, list[int]]], material: FeatureMaterial) -> np.ndarray:
    """The weight of every token of every item, in their order."""
    weights = []
    for item, _ in read:
        example, weight = item.example, 0.0
        if example is not None and example.kind == "random":
            weight = 1.0
        elif example is not None and example.kind == "interval" and example.interval >= 0:
            weight = material.density * float(material.interval_probabilities[example.interval])
        weights.append(np.full(len(item.truth), weight))
    return np.concatenate(weights)


def _simulation(read: list[tuple[Item, list[int]]], material: FeatureMaterial) -> dict[str, Any]:
    counted = np.concatenate([item.example.readable for item, _ in read if item.example is not None])
    true = np.concatenate([item.truth for item, _ in read]).astype(np.float64)[counted]
    predicted = np.concatenate([answer for _, answer in read]).astype(np.float64)[counted]
    return {
        "simulation_spearman": spearman(predicted, true),
        "simulation_pearson": pearson(predicted, true),
        "importance_spearman": weighted_spearman(predicted, true, importance_weights(read, material)[counted]),
    }


def _weighted_ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    _, inverse = np.unique(values, return_inverse=True)
    at = np.bincount(inverse, weights=weights)
    return (np.cumsum(at) - at / 2)[inverse]
