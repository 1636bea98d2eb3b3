"""What is particular to the Gated autoencoder."""

import torch

from sae.architectures.config import GatedConfig
from sae.architectures.registry import build_dictionary

X = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))


def a_dictionary():
    return build_dictionary(GatedConfig(d_sae=64), 16)


def test_the_gate_says_whether_and_the_magnitude_how_much():
    dictionary = a_dictionary()
    with torch.no_grad():
        dictionary.b_mag.fill_(100.0)
        dictionary.b_gate[:32] = -100.0
    features = dictionary.encode(X)
    assert not features[:, :32].any()
    open_gates = X @ dictionary.W_enc[:, 32:] > 0
    assert torch.equal(features[:, 32:] > 0, open_gates)
    assert (features[:, 32:][open_gates] > 90).all()


def test_the_auxiliary_loss_leaves_decoder_and_magnitudes_alone():
    dictionary = a_dictionary()
    dictionary.training_pass(X).losses["auxiliary"].backward()
    for name in ("W_dec", "b_mag", "r_mag"):
        assert dictionary.get_parameter(name).grad is None
    assert dictionary.b_gate.grad.any()
    assert dictionary.W_enc.grad.any()


def test_the_gate_learns_from_its_own_terms_alone():
    dictionary = a_dictionary()
    dictionary.training_pass(X).losses["reconstruction"].backward()
    assert dictionary.b_gate.grad is None or not dictionary.b_gate.grad.any()
    assert dictionary.b_mag.grad.any()
