"""Candidates found in bfloat16 and decided in float32: the support of the float32 encode, whatever the sizes of rows and columns."""

import pytest
import torch

from sae.kernels import support as support_module
from sae.kernels.candidates import support_relu_bfloat16, support_topk_bfloat16, transposed
from sae.kernels.features import encode_relu, encode_topk
from sae.kernels.support import reaching, support_relu, support_topk


def some_encoder(seed, batch=700, d_in=96, d_sae=1024, bias=-2.0):
    """Rows and columns of very different lengths, so that one margin for all would be too wide for most."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, d_in, generator=generator) * torch.rand(batch, 1, generator=generator) * 4
    W_enc = torch.randn(d_in, d_sae, generator=generator) * torch.rand(d_sae, generator=generator) / d_in**0.5
    return x, torch.randn(d_in, generator=generator) / 4, W_enc, torch.randn(d_sae, generator=generator) / 4 + bias


def pre_activations(x, center, W_enc, b_enc):
    return (x.double() - center.double()) @ W_enc.double() + b_enc.double()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("bias", [-2.0, 0.0, -20.0])
def test_relu_misses_nothing_and_keeps_nothing_else(seed, bias):
    arguments = some_encoder(seed, bias=bias)
    found, expected = support_relu_bfloat16(*arguments).to_dense().double(), pre_activations(*arguments).relu()
    clear = expected > 1e-5  # nearer to 0 the order of a float32 sum decides
    assert torch.equal(found[clear] > 0, torch.ones(int(clear.sum()), dtype=torch.bool))
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("k", [1, 20, 100])
def test_topk_chooses_by_float32(seed, k):
    arguments = some_encoder(seed)
    found, expected = support_topk_bfloat16(*arguments, k), support_topk(*arguments, k)
    assert torch.equal(found.row_pointers, expected.row_pointers)
    differing = (found.to_dense() > 0) != (expected.to_dense() > 0)
    # Two entries may change places where they differ by less than the rounding of a float32 sum, not elsewhere.
    assert differing.sum() <= 2
    torch.testing.assert_close(found.to_dense()[~differing], expected.to_dense()[~differing], atol=2e-5, rtol=1e-5)


def test_equal_entries_are_chosen_by_feature_id():
    x, center = torch.ones(5, 8), torch.zeros(8)
    W_enc, b_enc = torch.ones(8, 256), torch.zeros(256)
    assert support_topk_bfloat16(x, center, W_enc, b_enc, 3).feature_ids.tolist() == [0, 1, 2] * 5


@pytest.mark.parametrize("block_rows", [1024, 33])
def test_blocks_and_empty_batches(monkeypatch, block_rows):
    monkeypatch.setattr("sae.kernels.candidates.block_rows", lambda width: block_rows)
    monkeypatch.setattr(support_module, "block_rows", lambda width: block_rows)
    arguments = some_encoder(0, batch=100)
    torch.testing.assert_close(support_relu_bfloat16(*arguments).to_dense(), support_relu(*arguments).to_dense())
    torch.testing.assert_close(support_topk_bfloat16(*arguments, 9).to_dense(), support_topk(*arguments, 9).to_dense())
    empty = (arguments[0][:0], *arguments[1:])
    assert support_relu_bfloat16(*empty).to_dense().shape == support_topk_bfloat16(*empty, 9).to_dense().shape == (0, 1024)


def test_a_slack_takes_in_what_narrowly_misses_the_k_largest():
    pre = torch.zeros(1, 256)
    pre[0, [3, 100, 150, 200]] = torch.tensor([1.0, 2.0, 0.9, 0.5])
    no_slack, slack = torch.zeros(1, 1), torch.full((1, 1), 0.2)
    assert reaching(pre, 2, no_slack, 0.0).tolist() == [3, 100]
    assert reaching(pre, 2, slack, 0.0).tolist() == reaching(pre, 2, no_slack, 0.2).tolist() == [3, 100, 150]


def test_a_dictionary_encodes_alike_in_both_precisions():
    arguments = some_encoder(1)
    for encode, more in ((encode_relu, ()), (encode_topk, (16,))):
        in_float32, in_bfloat16 = encode(*arguments, *more), encode(*arguments, *more, dtype=torch.bfloat16)
        torch.testing.assert_close(in_bfloat16.to_dense(), in_float32.to_dense(), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("columns", [3, 512, 1300])
def test_the_transpose_by_blocks(columns):
    weight = torch.randn(7, columns, generator=torch.Generator().manual_seed(0))
    assert torch.equal(transposed(weight), weight.t())
    assert transposed(weight).is_contiguous()
