"""Which coordinates fire: exactly those of the dense formula, ties and blocks included."""

import pytest
import torch

from sae.kernels import support as support_module
from sae.kernels.support import largest_positive, probe_density, support_relu, support_topk


def some_encoder(batch=70, d_in=12, d_sae=256, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, W_enc = torch.randn(batch, d_in, generator=generator), torch.randn(d_in, d_sae, generator=generator)
    center, b_enc = torch.randn(d_in, generator=generator), torch.randn(d_sae, generator=generator) - 3
    return x, center, W_enc, b_enc


def positions(features):
    return features.to_dense() != 0


def topk_by_sorting(pre, k):
    """Positive and among the first k of a stable sort, largest first."""
    order = pre.sort(dim=1, descending=True, stable=True).indices[:, :k]
    return torch.zeros_like(pre, dtype=torch.bool).scatter(1, order, True) & (pre > 0)


@pytest.mark.parametrize("block_rows", [1024, 32, 7])
def test_relu_keeps_what_is_positive_at_any_block_size(monkeypatch, block_rows):
    monkeypatch.setattr(support_module, "block_rows", lambda width: block_rows)
    x, center, W_enc, b_enc = some_encoder()
    found = support_relu(x, center, W_enc, b_enc)
    torch.testing.assert_close(found.to_dense(), ((x - center) @ W_enc + b_enc).relu())


@pytest.mark.parametrize("block_rows", [1024, 32, 7])
@pytest.mark.parametrize("k", [1, 5, 40, 200])
@pytest.mark.parametrize("d_sae", [256, 100, 64])
def test_topk_keeps_the_k_largest_that_are_positive(monkeypatch, block_rows, k, d_sae):
    monkeypatch.setattr(support_module, "block_rows", lambda width: block_rows)
    x, center, W_enc, b_enc = some_encoder(d_sae=d_sae)
    found = support_topk(x, center, W_enc, b_enc, k)
    assert torch.equal(positions(found), topk_by_sorting((x - center) @ W_enc + b_enc, k))


@pytest.mark.parametrize("d_sae", [256, 100])
def test_among_equal_entries_the_lowest_feature_ids_are_kept(d_sae):
    pre = torch.randint(-2, 4, (50, d_sae), generator=torch.Generator().manual_seed(1)).float()
    pre[0], pre[1] = 1.0, -1.0
    flat = largest_positive(pre, 10)
    kept = torch.zeros_like(pre, dtype=torch.bool).view(-1).index_fill(0, flat, True).view_as(pre)
    assert torch.equal(kept, topk_by_sorting(pre, 10))
    assert kept[0].nonzero().flatten().tolist() == list(range(10))
    assert not kept[1].any()


def test_an_empty_batch_fires_nothing():
    x, center, W_enc, b_enc = some_encoder(batch=0)
    for found in (support_relu(x, center, W_enc, b_enc), support_topk(x, center, W_enc, b_enc, 5)):
        assert (found.batch, found.nnz, found.to_dense().shape) == (0, 0, (0, 256))
    assert probe_density(x, center, W_enc, b_enc) == 0


def test_the_probe_estimates_density():
    x, center, W_enc, b_enc = some_encoder(batch=5000)
    true = (((x - center) @ W_enc + b_enc) > 0).double().mean().item()
    assert probe_density(x, center, W_enc, b_enc) == pytest.approx(true, rel=0.2)
