"""What is particular to the tied autoencoder."""

import torch

from sae.architectures.config import TiedConfig
from sae.architectures.registry import build_dictionary

X = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))


def test_one_matrix_encodes_and_decodes_at_unit_norm():
    dictionary = build_dictionary(TiedConfig(d_sae=32), 16)
    assert torch.equal(dictionary.W_enc, dictionary.W_dec.T)
    torch.testing.assert_close(dictionary.W_dec.norm(dim=1), torch.ones(32))
    assert set(dictionary.state_dict()) == {"M", "b_enc", "input_scale"}


def test_the_length_of_a_row_changes_nothing_and_has_no_gradient():
    dictionary = build_dictionary(TiedConfig(d_sae=32), 16)
    before = dictionary(X)
    with torch.no_grad():
        dictionary.M.mul_(3)
    torch.testing.assert_close(dictionary(X), before)
    dictionary.training_pass(X).losses["total"].backward()
    assert (dictionary.M.grad * dictionary.M).sum(1).abs().max() < 1e-6


def test_weights_start_within_the_bound_of_xavier():
    dictionary = build_dictionary(TiedConfig(d_sae=512), 16)
    bound = (6 / (512 + 16)) ** 0.5
    assert 0.99 * bound < dictionary.M.abs().max() <= bound
