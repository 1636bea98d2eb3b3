"""Sums that many workers gather and one adds up: counts are exact, float64 sums agree to their last digits in any grouping."""

from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np


class Sums:
    """Base of a dataclass whose fields are sums: numbers, numpy arrays, or further `Sums`."""

    def merge(self, other: Self) -> Self:
        """The sums over both parts; associative and commutative."""
        return type(self)(**{name: _joined(getattr(self, name), getattr(other, name)) for name in _names(self)})


@dataclass
class SequenceLosses(Sums):
    """Cross-entropy in nats, summed over each sequence: kept apart so that sequences can be drawn again (bootstrap).

    Attributes:
        sequence_ids: int64 `[sequences]`, ascending.
        predictions: int64 `[sequences]`, next tokens predicted in each sequence.
        clean: float64 `[sequences]`, of the untouched model.
        spliced: float64 `[sequences]`, with the reconstruction in place of the activation.
        zero_ablated: float64 `[sequences]`, with zeros in its place.
        mean_ablated: float64 `[sequences]`, with the mean activation of the store in its place.
    """

    sequence_ids: np.ndarray
    predictions: np.ndarray
    clean: np.ndarray
    spliced: np.ndarray
    zero_ablated: np.ndarray
    mean_ablated: np.ndarray

    def merge(self, other: Self) -> Self:
        """The sequences of both parts."""
        order = np.argsort(np.concatenate([self.sequence_ids, other.sequence_ids]), kind="stable")
        return type(self)(**{name: np.concatenate([getattr(self, name), getattr(other, name)])[order] for name in _names(self)})


def _joined(mine: Any, other: Any) -> Any:
    return mine.merge(other) if isinstance(mine, Sums) else mine + other


def _names(sums: Any) -> list[str]:
    return [field.name for field in fields(sums)]
