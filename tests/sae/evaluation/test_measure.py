"""Figures of a dictionary on vectors at hand are those of their definitions."""

import pytest
import torch

import sae
from sae.architectures.registry import build_dictionary
from sae.errors import InputError, WidthError
from sae.evaluation import measure as module


@pytest.fixture
def vectors():
    return 2 + torch.randn(1000, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def dictionary():
    return build_dictionary(sae.TopK(d_sae=32, k=3), 8)


def test_figures_are_their_formulas_however_the_vectors_are_cut(dictionary, vectors, monkeypatch):
    reconstruction, features = dictionary(vectors).detach(), dictionary.encode(vectors)
    for size in (64, 4096):
        monkeypatch.setattr(module, "BATCH_VECTORS", size)
        measured = sae.measure(dictionary, vectors)
        expected = (vectors - reconstruction).square().sum() / (vectors - vectors.mean(0)).square().sum()
        assert measured.fvu == pytest.approx(expected.item(), rel=1e-5)
        assert measured.l0 == pytest.approx((features != 0).sum(1).double().mean().item())
        assert measured.density.tolist() == (features != 0).double().mean(0).tolist()
    assert repr(measured) == f"Measurement(fvu={measured.fvu:.4f}, l0={measured.l0:.2f}, silent={(measured.density == 0).mean():.1%} of 32 features)"


def test_arrays_are_measured_as_tensors_are(dictionary, vectors):
    assert sae.measure(dictionary, vectors.numpy()).reconstruction == sae.measure(dictionary, vectors).reconstruction


def test_vectors_that_do_not_vary_have_no_fvu(dictionary):
    assert sae.measure(dictionary, torch.ones(10, 8)).fvu is None


def test_what_cannot_be_measured_is_refused(dictionary):
    with pytest.raises(WidthError, match=r"shape \[vectors, 8\]; found vectors of shape \[4, 9\]"):
        sae.measure(dictionary, torch.ones(4, 9))
    with pytest.raises(WidthError, match="this is a transcoder"):
        sae.measure(build_dictionary(sae.TopK(d_sae=32, k=3), 8, 4), torch.ones(4, 8))
    with pytest.raises(InputError, match="no vector"):
        sae.measure(dictionary, torch.ones(0, 8))
