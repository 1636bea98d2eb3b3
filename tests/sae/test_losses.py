"""Loss conventions, on numbers small enough for paper."""

import pytest
import torch

from sae.kernels.sparse import SparseFeatures
from sae.losses import (
    auxiliary_squared_error,
    l1_norms,
    mean_squared_errors,
    normalized_squared_error,
    power_norms,
    squared_errors,
    weighted_l1_norms,
)

X = torch.tensor([[1.0, 2.0], [3.0, 6.0]])


def test_the_squared_error_is_a_mean_over_elements():
    assert mean_squared_errors(X, torch.tensor([[0.0, 4.0], [3.0, 6.0]])).tolist() == [(1 + 4) / 2, 0]


def test_the_l1_norm_is_a_sum_over_features():
    features = torch.tensor([[0.5, 0.0, 2.0], [0.0, 0.0, 0.0]])
    assert l1_norms(features).tolist() == l1_norms(SparseFeatures.from_dense(features)).tolist() == [2.5, 0]


def test_the_squared_error_of_april_is_a_sum_over_elements():
    assert squared_errors(X, torch.tensor([[0.0, 4.0], [3.0, 6.0]])).tolist() == [1 + 4, 0]


def test_the_l1_norm_of_april_is_weighted_by_the_lengths_of_directions():
    features, W_dec = torch.tensor([[0.5, 0.0, 2.0]]), torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 0.5]])
    assert (
        weighted_l1_norms(features, W_dec).tolist() == weighted_l1_norms(SparseFeatures.from_dense(features), W_dec).tolist() == [0.5 * 5 + 2 * 0.5]
    )


def test_powers_are_summed_over_what_fired():
    features = torch.tensor([[0.25, 0.0, 4.0], [0.0, 0.0, 0.0]], requires_grad=True)
    assert power_norms(features, 0.5).tolist() == power_norms(SparseFeatures.from_dense(features), 0.5).tolist() == [0.5 + 2, 0]
    power_norms(features, 0.5).sum().backward()
    assert features.grad.tolist() == [[0.5 / 0.5, 0, 0.5 / 2], [0, 0, 0]]


def test_guessing_the_mean_has_a_normalized_error_of_1_in_any_unit_and_offset():
    for data in (X, 1000 * X, X + 500):
        assert normalized_squared_error(data, data.mean(0).expand_as(data)).item() == pytest.approx(1)
        assert normalized_squared_error(data, data).item() == 0


def test_nothing_to_explain_is_no_error_and_no_nan():
    constant = torch.ones(3, 2)
    guess = torch.zeros(3, 2, requires_grad=True)
    loss = normalized_squared_error(constant, guess)
    loss.backward()
    assert loss.item() == 0
    assert guess.grad.tolist() == [[0, 0]] * 3


def test_the_auxiliary_error_takes_the_error_as_given_and_survives_nan():
    error, prediction = X.clone().requires_grad_(), torch.zeros(2, 2, requires_grad=True)
    auxiliary_squared_error(error, prediction).backward()
    assert error.grad is None
    assert prediction.grad.any()
    broken = auxiliary_squared_error(X, torch.full((2, 2), torch.nan, requires_grad=True))
    assert broken.item() == 0
    assert not broken.requires_grad
    assert auxiliary_squared_error(X, torch.full((2, 2), torch.inf)).item() == 0
