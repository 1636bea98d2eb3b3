"""Choices beyond "greater than 0", beside their dense definitions."""

import pytest
import torch

from sae.kernels import selection
from sae.kernels.selection import encode_above, fired, keep, map_values, split_rows, support_above, support_batch_topk
from sae.kernels.sparse import SparseFeatures


def some_encoder(batch=70, d_in=12, d_sae=256, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, W_enc = torch.randn(batch, d_in, generator=generator), torch.randn(d_in, d_sae, generator=generator)
    center, b_enc = torch.randn(d_in, generator=generator), torch.randn(d_sae, generator=generator) - 3
    return x, center, W_enc, b_enc


def pre_activations(x, center, W_enc, b_enc):
    return (x - center) @ W_enc + b_enc


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bound", [torch.tensor(1.5), torch.linspace(-1, 6, 256)], ids=["one", "each"])
def test_what_lies_above_a_bound_is_kept_with_its_value(bound, dtype):
    pre = pre_activations(*some_encoder())
    found = support_above(*some_encoder(), bound, dtype)
    torch.testing.assert_close(found.to_dense(), pre * (pre > bound), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("share", [0.0, 1.0], ids=["dense", "sparse"])
def test_values_above_a_bound_have_the_dense_gradient(monkeypatch, share):
    monkeypatch.setattr(selection, "DENSE_ABOVE_DENSITY", share)
    tensors = [tensor.requires_grad_() for tensor in some_encoder()]
    weights = torch.randn(70, 256, generator=torch.Generator().manual_seed(1))
    found = map_values(encode_above(*tensors, torch.tensor(2.0)), lambda z: torch.where(z > 2, z, 0.0))
    assert isinstance(found, SparseFeatures) == (share == 1)
    dense = found.to_dense() if isinstance(found, SparseFeatures) else found
    gradients = torch.autograd.grad((dense * weights).sum(), tensors)
    pre = pre_activations(*tensors)
    for gradient, expected in zip(gradients, torch.autograd.grad((pre * (pre > 2) * weights).sum(), tensors), strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("k", [1, 7, 40])
def test_the_largest_of_a_batch_are_those_of_a_sort(k):
    pre = pre_activations(*some_encoder())
    found, smallest = support_batch_topk(*some_encoder(), k)
    largest = pre.view(-1).sort(descending=True).values[: k * 70].clamp_min(0)
    wanted = largest[largest > 0]
    assert smallest == pytest.approx(wanted[-1].item(), rel=1e-5)
    assert found.nnz == len(wanted)
    torch.testing.assert_close(found.values.sort(descending=True).values, wanted)


def test_a_guess_that_is_too_high_does_no_harm(monkeypatch):
    expected, _ = support_batch_topk(*some_encoder(), 7)
    monkeypatch.setattr(selection, "_guess_bound", lambda *_: torch.tensor(1e6))
    found, _ = support_batch_topk(*some_encoder(), 7)
    assert torch.equal(found.feature_ids, expected.feature_ids)
    assert torch.equal(found.row_pointers, expected.row_pointers)


def test_equal_entries_at_the_boundary_are_all_kept():
    x = torch.ones(4, 1)
    found, smallest = support_batch_topk(x, torch.zeros(1), torch.tensor([[1.0, 3.0, 2.0, 2.0]]), torch.zeros(4), k=2)
    assert smallest == 2
    assert found.to_dense().tolist() == [[0, 3, 2, 2]] * 4  # eight wanted, the smallest of them eightfold


def test_nothing_positive_leaves_nothing():
    x, center, W_enc, b_enc = some_encoder()
    found, smallest = support_batch_topk(x, center, W_enc, b_enc - 1e6, 7)
    assert found.nnz == 0
    assert smallest == torch.inf


def test_keeping_some_coordinates():
    dense = torch.tensor([[1.0, 0, 2], [0, 0, 0], [3, 4, 5]])
    features = SparseFeatures.from_dense(dense)
    assert keep(features, features.values % 2 == 1).to_dense().tolist() == [[1, 0, 0], [0, 0, 0], [3, 0, 5]]
    stored_zeros = features.with_values(features.values * (features.values > 2))
    assert fired(stored_zeros).nnz == 3
    assert torch.equal(fired(stored_zeros).to_dense(), stored_zeros.to_dense())


def test_parameters_are_taken_at_the_features_of_the_values():
    dense = torch.tensor([[1.0, 0, 2], [3, 4, 5]])
    factors = torch.tensor([1.0, 10, 100], requires_grad=True)
    found = map_values(SparseFeatures.from_dense(dense), torch.mul, factors)
    assert found.to_dense().tolist() == map_values(dense, torch.mul, factors).tolist() == [[1, 0, 200], [3, 40, 500]]
    found.values.sum().backward()
    assert factors.grad.tolist() == [4, 4, 7]


def test_rows_split_by_groups_of_features():
    dense = torch.tensor([[1.0, 0, 2, 3], [0, 0, 0, 0], [4, 5, 0, 0]])
    split = split_rows(SparseFeatures.from_dense(dense), torch.tensor([1, 3]))
    expected = torch.stack([dense * torch.tensor(group) for group in ([1.0, 0, 0, 0], [0, 1.0, 1, 0], [0, 0, 0, 1.0])], 1).view(9, 4)
    assert torch.equal(split.to_dense(), expected)
    assert torch.equal(split.by_feature.row_ids, SparseFeatures.from_dense(expected).by_feature.row_ids)
