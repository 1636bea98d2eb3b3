"""Scores: the formulas, and what counts as nothing."""

import numpy as np
import pytest
from scipy import stats

from sae.interpretation.scoring import median_interval, pearson, quantised, sparse_pearson, spearman


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


def test_the_score_over_all_tokens_counts_the_counted_only(pair):
    predicted, true = pair
    counted = np.arange(540) % 3 > 0
    positions = np.flatnonzero((true > 0) & counted)
    assert sparse_pearson(predicted, counted, positions, true[positions]) == pytest.approx(pearson(predicted[counted], true[counted]))


def test_the_score_over_all_tokens_of_a_constant_is_nothing():
    assert sparse_pearson(np.full(9, 0.7), np.ones(9, bool), np.array([3]), np.array([2.0])) == 0


def test_the_interval_holds_the_median_and_narrows_with_more_features():
    draw = np.random.default_rng(0)
    few, many = draw.normal(0.5, 0.1, 30), draw.normal(0.5, 0.1, 3000)
    low, high = median_interval(few, 0, "few")
    assert low <= np.median(few) <= high
    assert np.diff(median_interval(many, 0, "many")) < (high - low) / 3
    assert median_interval(few, 0, "few") == (low, high)
