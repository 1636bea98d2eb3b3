"""Loss conventions, on numbers small enough for paper."""

import pytest
import torch

from sae.kernels.sparse import SparseFeatures
from sae.losses import auxiliary_squared_error, l1_norms, mean_squared_errors, normalized_squared_error

X = torch.tensor([[1.0, 2.0], [3.0, 6.0]])


def test_the_squared_error_is_a_mean_over_elements():
    assert mean_squared_errors(X, torch.tensor([[0.0, 4.0], [3.0, 6.0]])).tolist() == [(1 + 4) / 2, 0]


def test_the_l1_norm_is_a_sum_over_features():
    features = torch.tensor([[0.5, 0.0, 2.0], [0.0, 0.0, 0.0]])
    assert l1_norms(features).tolist() == l1_norms(SparseFeatures.from_dense(features)).tolist() == [2.5, 0]


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
