"""Losses and divergences, each restated in plain torch."""

import pytest
import torch
from torch.nn import functional

from sae.evaluation import predictions
from sae.evaluation.predictions import clean_predictions, compare, next_token_losses


@pytest.fixture(params=[7, 2**20], ids=["one row a chunk", "one chunk"])
def _chunked(request, monkeypatch):
    monkeypatch.setitem(predictions.CHUNK_ELEMENTS, "cpu", request.param)


def drawn(seed, scale=3.0):
    return scale * torch.randn(4, 9, 50, generator=torch.Generator().manual_seed(seed))


TOKENS = torch.randint(0, 50, (4, 9), generator=torch.Generator().manual_seed(9))


@pytest.mark.usefixtures("_chunked")
def test_losses_are_cross_entropies_of_the_next_token():
    logits = drawn(0)
    expected = functional.cross_entropy(logits[:, :-1].flatten(0, 1), TOKENS[:, 1:].flatten(), reduction="none").view(4, 8)
    torch.testing.assert_close(next_token_losses(logits, TOKENS), expected)


@pytest.mark.usefixtures("_chunked")
def test_comparison_with_the_clean_model():
    clean, logits = drawn(0), drawn(0) + drawn(1, 0.7)
    found = compare(clean_predictions(clean, TOKENS), logits)
    p, q = clean[:, :-1].softmax(-1), logits[:, :-1].softmax(-1)
    torch.testing.assert_close(found.kl_divergence, (p * (p / q).log()).sum(-1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.losses, next_token_losses(logits, TOKENS))
    assert torch.equal(found.agrees, p.argmax(-1) == q.argmax(-1))
    assert 0 < found.agrees.float().mean() < 1


def test_a_pass_equal_to_the_clean_one_diverges_by_nothing():
    found = compare(clean_predictions(drawn(0), TOKENS), drawn(0))
    assert found.kl_divergence.max() == 0
    assert found.agrees.all()


def test_half_precision_logits_are_compared_in_float32():
    logits = drawn(0).bfloat16()
    assert torch.equal(next_token_losses(logits, TOKENS), next_token_losses(logits.float(), TOKENS))
