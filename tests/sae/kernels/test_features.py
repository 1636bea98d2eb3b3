"""Sparse and dense kernels against plain dense autograd in float64: the same numbers, forward and backward."""

import pytest
import torch

from sae.kernels import features as features_module
from sae.kernels.dense import dense_relu_encode
from sae.kernels.features import decode_features, decode_sparse, encode_at, encode_relu, encode_topk
from sae.kernels.sparse import SparseFeatures, feature_sums
from sae.kernels.support import support_relu

NAMES = ("x", "center", "W_enc", "b_enc", "W_dec")


def some_weights(density=0.05, batch=300, d_in=48, d_sae=512):
    """Random weights with an encoder bias at which about `density` of all coordinates fire."""
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "x": torch.randn(batch, d_in, generator=generator),
        "center": torch.randn(d_in, generator=generator) / 4,
        "W_enc": torch.randn(d_in, d_sae, generator=generator) / d_in**0.5,
        "W_dec": torch.randn(d_sae, d_in, generator=generator) / d_in**0.5,
    }
    pre = (tensors["x"] - tensors["center"]) @ tensors["W_enc"]
    tensors["b_enc"] = -pre.quantile(1 - density, dim=0)
    return tensors


def gradients(tensors, encode, decode, dtype):
    """Loss and all gradients of squared error plus the features' sum."""
    leaves = {name: tensor.to(dtype).requires_grad_() for name, tensor in tensors.items()}
    features = encode(*(leaves[name] for name in NAMES[:4]))
    reconstruction = decode(features, leaves["W_dec"]) + leaves["center"]
    loss = (leaves["x"] - reconstruction).square().mean(1).sum() + 0.01 * feature_sums(features).sum()
    loss.backward()
    return loss.item(), {name: leaf.grad for name, leaf in leaves.items()}


def plain_relu(x, center, W_enc, b_enc):
    return ((x - center) @ W_enc + b_enc).relu()


def plain_topk(x, center, W_enc, b_enc):
    pre = (x - center) @ W_enc + b_enc
    values, ids = pre.topk(20, dim=1)
    return torch.zeros_like(pre).scatter(1, ids, values.relu())


def sparse_relu(x, center, W_enc, b_enc):
    return encode_at(x, center, W_enc, b_enc, support_relu(x, center, W_enc, b_enc))


def sparse_topk(x, center, W_enc, b_enc):
    return encode_topk(x, center, W_enc, b_enc, 20)


def bfloat16_relu(x, center, W_enc, b_enc):
    return encode_relu(x, center, W_enc, b_enc, torch.bfloat16)


def bfloat16_topk(x, center, W_enc, b_enc):
    return encode_topk(x, center, W_enc, b_enc, 20, torch.bfloat16)


@pytest.mark.parametrize("density", [0.005, 0.05, 0.5])
@pytest.mark.parametrize(
    ("encode", "plain"),
    [
        (sparse_relu, plain_relu),
        (dense_relu_encode, plain_relu),
        (encode_relu, plain_relu),
        (bfloat16_relu, plain_relu),
        (sparse_topk, plain_topk),
        (bfloat16_topk, plain_topk),
    ],
)
def test_every_gradient_is_that_of_dense_autograd(encode, plain, density):
    tensors = some_weights(density)
    expected_loss, expected = gradients(tensors, plain, torch.matmul, torch.float64)
    loss, found = gradients(tensors, encode, decode_features, torch.float32)
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    for name in NAMES:
        error = (found[name].double() - expected[name]).norm() / expected[name].norm()
        assert error < 1e-5, f"{name}: {error}"


def test_gradients_are_laid_out_as_their_weights():
    _, found = gradients(some_weights(), sparse_relu, decode_features, torch.float32)
    assert found["W_enc"].is_contiguous()
    assert found["W_dec"].is_contiguous()


def test_sums_have_one_order_so_that_two_runs_are_equal_to_the_bit():
    first, second = (gradients(some_weights(), sparse_topk, decode_features, torch.float32) for _ in range(2))
    assert first[0] == second[0]
    assert all(torch.equal(first[1][name], second[1][name]) for name in NAMES)


def test_the_dense_way_is_taken_where_most_features_fire(monkeypatch):
    tensors = some_weights(0.5)
    arguments = [tensors[name] for name in NAMES[:4]]
    assert not isinstance(encode_relu(*arguments), SparseFeatures)
    monkeypatch.setattr(features_module, "DENSE_ABOVE_DENSITY", 0.6)
    assert isinstance(encode_relu(*arguments), SparseFeatures)


def test_where_nothing_fires_gradients_are_zero():
    tensors = some_weights()
    tensors["b_enc"] = torch.full_like(tensors["b_enc"], -100.0)
    _, found = gradients(tensors, encode_relu, decode_features, torch.float32)
    assert not any(found[name].any() for name in ("W_enc", "b_enc", "W_dec"))


def test_decoding_accepts_features_made_by_hand():
    features = SparseFeatures(torch.tensor([0, 2, 2]), torch.tensor([0, 2]), torch.tensor([2.0, 1.0]), num_features=3)
    W_dec = torch.tensor([[1.0, 0.0], [5.0, 5.0], [0.0, 3.0]])
    assert decode_sparse(features, W_dec).tolist() == [[2, 3], [0, 0]]
    assert torch.equal(decode_features(features.to_dense(), W_dec), decode_sparse(features, W_dec))
