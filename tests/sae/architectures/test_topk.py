"""What is particular to the TopK autoencoder."""

import pytest
import torch

from sae.architectures.base import StepContext
from sae.architectures.config import TopKConfig
from sae.architectures.registry import build_dictionary

X = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))


def test_no_more_than_k_features_fire():
    dictionary = build_dictionary(TopKConfig(d_sae=64, k=5), 16)
    assert (dictionary.encode(X) > 0).sum(1).tolist() == [5] * 50


def test_the_encoder_starts_as_the_decoder_transposed():
    dictionary = build_dictionary(TopKConfig(d_sae=64, k=5), 16)
    assert torch.equal(dictionary.W_enc, dictionary.W_dec.T)


@pytest.mark.parametrize(("d_in", "aux_k"), [(512, 256), (768, 512), (128, 64), (1, 1)])
def test_aux_k_is_the_power_of_two_nearest_half_the_width(d_in, aux_k):
    assert build_dictionary(TopKConfig(d_sae=32, k=5), d_in).aux_k == aux_k


def test_the_auxiliary_loss_moves_dead_features_and_no_others():
    dictionary = build_dictionary(TopKConfig(d_sae=64, k=5, aux_k=4), 16)
    dead = torch.arange(64) >= 56
    losses = dictionary.training_pass(X, StepContext(dead=dead)).losses
    losses["auxiliary"].backward()
    moved = dictionary.W_dec.grad.any(1)
    assert moved.any()
    assert not moved[~dead].any()
    assert losses["auxiliary"] > 0
    assert dictionary.training_pass(X).losses["auxiliary"] == 0
    assert dictionary.training_pass(X, StepContext(dead=torch.zeros_like(dead))).losses["auxiliary"] == 0


def test_dead_features_that_hold_nan_do_not_end_a_run():
    dictionary = build_dictionary(TopKConfig(d_sae=64, k=5), 16)
    with torch.no_grad():
        dictionary.W_dec[63] = torch.nan
        dictionary.W_enc[:, 63] = 0
        dictionary.b_enc[63] = 1e-3  # too little to be among the five largest, enough to fire among the dead
    losses = dictionary.training_pass(X, StepContext(dead=torch.arange(64) == 63)).losses
    assert losses["auxiliary"] == 0
    losses["total"].backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in dictionary.parameters())
