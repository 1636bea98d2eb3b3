"""Scores: the formulas, and what counts as nothing."""

import numpy as np
import pytest
from scipy import stats

from sae.interpretation.scoring import held_out_figures, median_interval, pearson, quantised, spearman


@pytest.fixture
def pair():
    draw = np.random.default_rng(0)
    true = np.maximum(draw.standard_normal(540) - 1, 0)
    return true + 0.3 * draw.random(540), true


def test_both_correlations_agree_with_scipy(pair):
    assert spearman(*pair) == pytest.approx(stats.spearmanr(*pair).statistic)
    assert pearson(*pair) == pytest.approx(stats.pearsonr(*pair).statistic)


def test_a_constant_prediction_scores_nothing(pair):
    assert spearman(np.full(540, 0.3), pair[1]) == 0
    assert pearson(np.full(540, 0.3), pair[1]) == 0
    assert spearman(pair[0], np.zeros(540)) == 0


def test_digits_run_from_zero_to_nine():
    assert quantised(np.array([0, 0.05, 0.06, 0.5, 1, 1.4]), 1.0).tolist() == [0, 0, 1, 4, 9, 9]


@pytest.fixture
def held_out():
    """A text of 900 tokens, two thirds of them counted, and a graph of five nodes, two of which predict the same."""
    draw = np.random.default_rng(1)
    nodes, means, counted = draw.integers(0, 5, 900), np.array([0.1, 2.0, 0.0, 0.9, 0.1], np.float32), np.arange(900) % 3 > 0
    true = np.where(draw.random(900) < 0.2 + 0.6 * (means[nodes] > 0.5), means[nodes] + draw.random(900), 0) * counted
    return nodes, means, counted, true


def test_figures_over_all_tokens_are_those_of_the_counted_tokens(held_out):
    nodes, means, counted, true = held_out
    positions = np.flatnonzero(true)
    found = held_out_figures(nodes, means, counted, (positions, true[positions]), typical=1.0)
    predicted, actual = means[nodes][counted], true[counted]
    said, fires = predicted >= 0.5, actual > 0
    assert found["firing_precision"] == pytest.approx((said & fires).sum() / said.sum())
    assert found["firing_recall"] == pytest.approx((said & fires).sum() / fires.sum())
    assert found["firing_f1"] == pytest.approx(stats.hmean([found["firing_precision"], found["firing_recall"]]))
    assert found["variance_explained"] == pytest.approx(1 - np.square(actual - predicted).sum() / np.square(actual - actual.mean()).sum())
    assert found["score_all_tokens"] == pytest.approx(stats.pearsonr(predicted, actual).statistic)
    assert found["spearman_all_tokens"] == pytest.approx(stats.spearmanr(predicted, actual).statistic)


def test_a_constant_explanation_finds_nothing(held_out):
    nodes, _, counted, true = held_out
    positions = np.flatnonzero(true)
    found = held_out_figures(np.zeros_like(nodes), np.array([0.1]), counted, (positions, true[positions]), typical=1.0)
    assert {found[name] for name in ("firing_precision", "firing_recall", "firing_f1", "score_all_tokens", "spearman_all_tokens")} == {0}
    assert found["variance_explained"] <= 0


def test_the_interval_holds_the_median_and_narrows_with_more_features():
    draw = np.random.default_rng(0)
    few, many = draw.normal(0.5, 0.1, 30), draw.normal(0.5, 0.1, 3000)
    low, high = median_interval(few, 0, "few")
    assert low <= np.median(few) <= high
    assert np.diff(median_interval(many, 0, "many")) < (high - low) / 3
    assert median_interval(few, 0, "few") == (low, high)
