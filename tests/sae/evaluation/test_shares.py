"""A share of something that is not there is no figure: null, with the reason, wherever a denominator is not positive beyond its noise."""

import numpy as np
import pytest

from sae.evaluation.downstream import loss_recovered, no_cost
from sae.shares import ratio


@pytest.mark.parametrize(
    ("numerator", "denominator", "expected"), [(1, 2, 0.5), (-1, 2, -0.5), (0, 2, 0.0), (1, 0, None), (1, -2, None), (0, 0, None)]
)
def test_a_ratio_needs_a_positive_denominator(numerator, denominator, expected):
    assert ratio(numerator, denominator) == expected


def test_where_ablation_lowers_the_loss_nothing_is_recovered():
    """The best figure of a table, 2.0, went to a dictionary that makes the model worse."""
    assert loss_recovered(np.array([10.0, 10.0]), np.array([11.0, 11.0]), np.array([9.0, 9.0]), 0) == (None, None)


def test_where_ablation_costs_no_more_than_noise_nothing_is_recovered():
    draw = np.random.default_rng(0)
    clean = draw.normal(10, 1, 400)
    noise = draw.normal(0, 0.1, 400)
    noise += 0.001 - noise.mean()  # above 0, and within its noise
    assert noise.sum() > 0
    assert loss_recovered(clean, clean + 0.05, clean + noise, 0) == (None, None)


def test_where_ablation_costs_something_the_share_and_its_interval_are_as_the_formula_says():
    draw = np.random.default_rng(1)
    clean = draw.normal(10, 1, 400)
    spliced, ablated = clean + draw.normal(0.2, 0.05, 400), clean + draw.normal(2.0, 0.3, 400)
    share, (low, high) = loss_recovered(clean, spliced, ablated, 0)
    assert share == pytest.approx((ablated - spliced).sum() / (ablated - clean).sum())
    assert low < share < high
    assert high - low < 0.01


def test_a_single_sequence_has_a_share_and_no_interval():
    assert loss_recovered(np.array([10.0]), np.array([10.5]), np.array([11.0]), 0) == (0.5, None)
    assert loss_recovered(np.array([10.0]), np.array([10.5]), np.array([10.0]), 0) == (None, None)


def test_the_reason_names_the_ablation_and_its_cost():
    assert (
        no_cost("mean", -0.7)
        == "mean ablation costs -0.7 nats per prediction here, which is not above 0 beyond its noise: there is no loss to recover"
    )
