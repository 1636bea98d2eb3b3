"""What is particular to the JumpReLU autoencoder."""

import pytest
import torch

from sae.architectures.base import StepContext
from sae.architectures.config import JumpReluConfig
from sae.architectures.registry import build_dictionary

X = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))


def a_dictionary(**settings):
    return build_dictionary(JumpReluConfig(d_sae=64, bandwidth=0.1, threshold_start=0.2, **settings), 16)


def test_thresholds_start_in_mean_norms():
    dictionary = a_dictionary()
    torch.testing.assert_close(dictionary.threshold, torch.full((64,), 0.2 * 4))  # the mean norm of scaled activations is √16
    assert dictionary.bandwidth == pytest.approx(0.1 * 4)


def test_nothing_fires_below_its_threshold():
    dictionary = a_dictionary()
    with torch.no_grad():
        dictionary.log_threshold.copy_(torch.linspace(-1, 1, 64))
    features = dictionary.encode(X)
    assert (features[features > 0] > dictionary.threshold.expand(50, 64)[features > 0]).all()
    assert not features[:, 63].equal(torch.relu(X @ dictionary.W_enc[:, 63]))


def test_the_count_of_features_moves_thresholds_and_nothing_else():
    dictionary = a_dictionary(l0_coefficient=0.1)
    losses = dictionary.training_pass(X).losses
    assert losses["sparsity"].item() == pytest.approx(0.1 * (dictionary.encode(X) > 0).sum(1).float().mean().item())
    losses["sparsity"].backward()
    assert (dictionary.log_threshold.grad <= 0).all()
    assert dictionary.log_threshold.grad.any()
    for name in ("W_enc", "b_enc", "W_dec"):
        gradient = dictionary.get_parameter(name).grad
        assert gradient is None or not gradient.any()


def test_the_penalty_can_be_warmed_up():
    full, half = (a_dictionary().training_pass(X, StepContext(sparsity_scale=scale)).losses["sparsity"] for scale in (1.0, 0.5))
    assert full == 2 * half > 0
