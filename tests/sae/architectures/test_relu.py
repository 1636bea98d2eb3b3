"""What is particular to the ReLU autoencoder."""

import pytest
import torch

from sae.architectures.base import StepContext
from sae.architectures.config import ReluConfig
from sae.architectures.registry import build_dictionary

X = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))


def test_the_penalty_can_be_warmed_up():
    dictionary = build_dictionary(ReluConfig(d_sae=32, l1_coefficient=0.5), 16)
    full, half, none = (dictionary.training_pass(X, StepContext(sparsity_scale=scale)).losses for scale in (1.0, 0.5, 0.0))
    assert full["sparsity"] == 2 * half["sparsity"] > 0
    assert none["sparsity"] == 0
    assert full["reconstruction"] == none["reconstruction"]


def test_dead_features_change_nothing():
    dictionary = build_dictionary(ReluConfig(d_sae=32), 16)
    assert dictionary.training_pass(X, StepContext(dead=torch.ones(32, dtype=torch.bool))).losses == dictionary.training_pass(X).losses


def test_weights_start_within_the_bound_of_a_linear_layer():
    dictionary = build_dictionary(ReluConfig(d_sae=512), 16)
    assert dictionary.W_enc.abs().max().item() == pytest.approx(0.25, rel=0.01)
    assert dictionary.W_enc.std().item() == pytest.approx(0.25 / 3**0.5, rel=0.02)
