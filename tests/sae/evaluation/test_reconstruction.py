"""Reconstruction figures: variance over the whole set, whatever the offset and the batches."""

import pytest
import torch

from sae.evaluation.reconstruction import reconstruction_sums


@pytest.fixture
def activations():
    """3,000 vectors far from the origin: mean 100, standard deviation 0.1."""
    return 100 + 0.1 * torch.randn(3000, 6, generator=torch.Generator().manual_seed(0))


def figures(activations, reconstructions, shift, parts=1):
    pieces = [
        reconstruction_sums(x, y, shift)
        for x, y in zip(torch.tensor_split(activations, parts), torch.tensor_split(reconstructions, parts), strict=True)
    ]
    total = pieces[0]
    for piece in pieces[1:]:
        total = total.merge(piece)
    return total.figures()


def test_the_mean_as_prediction_explains_nothing_of_data_far_from_the_origin(activations):
    mean = activations.double().mean(0).float().expand_as(activations)
    assert figures(activations, mean, torch.full((6,), 100.0)).explained_variance == pytest.approx(0, abs=1e-4)


def test_fvu_is_the_published_ratio_over_the_whole_set(activations):
    reconstructions = activations + 0.05 * torch.randn(3000, 6, generator=torch.Generator().manual_seed(1))
    x, y = activations.double(), reconstructions.double()
    expected = (x - y).square().sum() / (x - x.mean(0)).square().sum()
    for parts in (1, 2, 3):
        found = figures(activations, reconstructions, torch.full((6,), 99.5), parts)
        assert found.fvu == pytest.approx(expected.item(), rel=1e-5)
        assert found.explained_variance == pytest.approx(1 - expected.item(), rel=1e-5)
        assert found.mean_squared_error == pytest.approx((x - y).square().sum(-1).mean().item(), rel=1e-5)


def test_batches_of_different_means_do_not_hide_variance_between_them():
    activations = torch.cat([torch.zeros(10, 2), torch.ones(10, 2)])
    batch_means = activations.clone()
    assert figures(activations, batch_means, torch.zeros(2), 2).fvu == 0
    assert figures(activations, torch.full_like(activations, 0.5), torch.zeros(2), 2).fvu == pytest.approx(1)


def test_cosine_and_norm_ratio(activations):
    shrunken = figures(activations, 0.5 * activations, torch.full((6,), 100.0))
    assert shrunken.cosine == pytest.approx(1, abs=1e-5)
    assert shrunken.norm_ratio == pytest.approx(0.5)
    nothing = figures(activations, torch.zeros_like(activations), torch.full((6,), 100.0))
    assert (nothing.cosine, nothing.norm_ratio) == (0, 0)


def test_norms_and_bias_are_those_of_saebench(activations):
    reconstructions = 0.9 * activations + torch.randn(3000, 6, generator=torch.Generator().manual_seed(2))
    x, y = activations.double(), reconstructions.double()
    for parts in (1, 3):
        found = figures(activations, reconstructions, torch.full((6,), 100.0), parts)
        assert found.norm == pytest.approx(x.norm(dim=1).mean().item())
        assert found.reconstruction_norm == pytest.approx(y.norm(dim=1).mean().item())
        assert found.norm_ratio_per_token == pytest.approx((y.norm(dim=1) / x.norm(dim=1)).mean().item())
        assert found.reconstruction_bias == pytest.approx(((y**2).sum(1).mean() / (x * y).sum(1).mean()).item())
        ratio = (x - y).square().sum(1) / (x - 100).square().sum(1)
        assert found.explained_variance_per_token == pytest.approx(1 - ratio.mean().item(), rel=1e-3)


def test_a_norm_of_nothing_counts_as_one():
    found = figures(torch.zeros(2, 3), torch.full((2, 3), 2.0), torch.ones(3))
    assert found.norm_ratio_per_token == pytest.approx(12**0.5)


def test_activations_that_never_vary_have_no_fvu():
    constant = torch.ones(4, 2)
    assert figures(constant, constant, torch.ones(2)).fvu is None
