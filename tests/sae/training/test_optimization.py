"""Adam's schedule and its memory of single features."""

import math

import pytest
import torch
from torch import nn

from sae.training.optimization import MOMENTS, OptimizerConfig, build_optimizer, learning_rate, reset_moments


def test_the_rate_rises_stays_and_falls():
    config = OptimizerConfig(learning_rate=2.0, warm_up_fraction=0.1, decay_fraction=0.2)
    rates = [learning_rate(config, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)])
    assert rates[10:80] == [2.0] * 70
    assert rates[80:] == pytest.approx([2.0 * (100 - step) / 20 for step in range(80, 100)])


def test_the_rate_may_rise_as_half_a_cosine_from_a_tenth():
    """Gemma Scope's warm-up (arXiv 2408.05147): 0.1 + 0.9 (1 - cos(pi t)) / 2."""
    config = OptimizerConfig(learning_rate=7e-5, warm_up_fraction=0.5, warm_up_shape="cosine", warm_up_from=0.1, decay_fraction=0)
    expected = [7e-5 * (0.1 + 0.45 * (1 - math.cos(math.pi * (step + 1) / 5))) for step in range(5)]
    assert [learning_rate(config, step, 10) for step in range(10)] == pytest.approx(expected + [7e-5] * 5)


def test_without_fractions_the_rate_is_constant():
    config = OptimizerConfig(learning_rate=0.5, decay_fraction=0)
    assert {learning_rate(config, step, 7) for step in range(7)} == {0.5}


def test_the_last_step_still_moves_the_weights():
    assert learning_rate(OptimizerConfig(), 9, 10) > 0


class Weights(nn.Module):
    def __init__(self, d_in=3, d_sae=5):
        super().__init__()
        self.W_enc = nn.Parameter(torch.ones(d_in, d_sae))
        self.b_enc = nn.Parameter(torch.ones(d_sae))
        self.W_dec = nn.Parameter(torch.ones(d_sae, d_in))
        self.b_dec = nn.Parameter(torch.ones(d_in))


def test_one_step_is_adams_formula():
    weights = Weights()
    config = OptimizerConfig(learning_rate=0.1, beta1=0.9, beta2=0.99, eps=1e-8)
    optimizer = build_optimizer(weights, config)
    (3 * weights.b_enc).sum().backward()
    optimizer.step()
    # With bias correction the first step has the size of the rate, whatever the gradient: 0.1 · 3/(√9 + eps).
    assert torch.allclose(weights.b_enc, torch.full((5,), 0.9))


def test_moments_of_chosen_features_are_forgotten_and_all_others_kept():
    weights = Weights()
    optimizer = build_optimizer(weights, OptimizerConfig())
    for parameter in weights.parameters():
        for number, moment in enumerate(MOMENTS):
            optimizer.state[parameter][moment].fill_(7.0 + number)
        optimizer.state[parameter]["step"].fill_(12.0)
    reset_moments(optimizer, weights, torch.tensor([1, 4]))
    for number, moment in enumerate(MOMENTS):
        value = 7.0 + number
        kept = [value, 0.0, value, value, 0.0]
        assert optimizer.state[weights.W_enc][moment].tolist() == [kept] * 3
        assert optimizer.state[weights.b_enc][moment].tolist() == kept
        assert optimizer.state[weights.W_dec][moment].tolist() == [[element] * 3 for element in kept]
        assert optimizer.state[weights.b_dec][moment].tolist() == [value] * 3
    assert all(optimizer.state[parameter]["step"] == 12 for parameter in weights.parameters())
