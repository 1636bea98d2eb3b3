"""Sums merged from any parts are the sums of the whole."""

from dataclasses import dataclass

import numpy as np
import pytest

from sae.evaluation.accumulators import SequenceLosses, Sums
from sae.shares import ratio


@dataclass
class Inner(Sums):
    counts: np.ndarray


@dataclass
class Outer(Sums):
    tokens: int
    inner: Inner


def test_numbers_arrays_and_nested_sums_are_added():
    merged = Outer(2, Inner(np.array([1, 0]))).merge(Outer(3, Inner(np.array([0, 5]))))
    assert merged.tokens == 5
    assert merged.inner.counts.tolist() == [1, 5]


def losses(ids):
    columns = {name: np.array(ids, float) + shift for shift, name in enumerate(("clean", "spliced", "zero_ablated", "mean_ablated"))}
    return SequenceLosses(sequence_ids=np.array(ids), predictions=np.array(ids) * 10, **columns)


@pytest.mark.parametrize("parts", [[[0, 1, 2, 3]], [[2, 3], [0, 1]], [[3], [0, 2], [1]]])
def test_sequences_are_put_back_in_order(parts):
    merged = losses(parts[0])
    for part in parts[1:]:
        merged = merged.merge(losses(part))
    whole = losses([0, 1, 2, 3])
    assert merged.sequence_ids.tolist() == [0, 1, 2, 3]
    assert merged.spliced.tolist() == whole.spliced.tolist()
    assert merged.predictions.tolist() == whole.predictions.tolist()


def test_a_ratio_to_nothing_is_none():
    assert ratio(1.0, 0.0) is None
    assert ratio(1.0, 4.0) == 0.25
