"""What is particular to the April 2024 recipe."""

import pytest
import torch

from sae.architectures.config import ReluAprilConfig
from sae.architectures.registry import build_dictionary

X = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))


def test_long_directions_with_small_features_cost_the_same():
    dictionary = build_dictionary(ReluAprilConfig(d_sae=32), 16)
    before = dictionary.training_pass(X).losses
    with torch.no_grad():
        dictionary.W_dec.mul_(4)
        dictionary.W_enc.div_(4)
    after = dictionary.training_pass(X).losses
    assert after["sparsity"].item() == pytest.approx(before["sparsity"].item())
    assert after["reconstruction"].item() == pytest.approx(before["reconstruction"].item())


def test_directions_start_with_norm_a_tenth_and_the_encoder_as_their_transpose():
    dictionary = build_dictionary(ReluAprilConfig(d_sae=32), 16)
    torch.testing.assert_close(dictionary.W_dec.norm(dim=1), torch.full((32,), 0.1))
    assert torch.equal(dictionary.W_enc, dictionary.W_dec.T)


def test_steps_leave_the_decoder_free():
    dictionary = build_dictionary(ReluAprilConfig(d_sae=32), 16)
    dictionary.training_pass(X).losses["total"].backward()
    gradient = dictionary.W_dec.grad.clone()
    dictionary.before_step()
    dictionary.after_step()
    assert torch.equal(dictionary.W_dec.grad, gradient)
    torch.testing.assert_close(dictionary.W_dec.norm(dim=1), torch.full((32,), 0.1))
