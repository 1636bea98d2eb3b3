"""What is particular to the BatchTopK autoencoder."""

import pytest
import torch

from sae.architectures.config import BatchTopKConfig
from sae.architectures.registry import build_dictionary

X = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))


def a_dictionary(**settings):
    return build_dictionary(BatchTopKConfig(d_sae=64, k=5, **settings), 16)


def test_k_features_fire_on_average_and_not_in_each_row():
    each = (a_dictionary().training_pass(X).features.to_dense() > 0).sum(1)
    assert each.sum() == 5 * 50
    assert each.unique().numel() > 1


def test_the_threshold_is_the_running_mean_of_the_smallest_kept_feature():
    dictionary = a_dictionary(threshold_decay=0.9)
    assert dictionary.threshold == 0
    first = dictionary.training_pass(X).features.values.min().item()
    assert dictionary.threshold.item() == pytest.approx(first)
    second = dictionary.training_pass(2 * X).features.values.min().item()
    assert dictionary.threshold.item() == pytest.approx(0.9 * first + 0.1 * second)


def test_in_evaluation_a_row_does_not_know_its_batch():
    dictionary = a_dictionary()
    dictionary.training_pass(X)
    dictionary.threshold.mul_(0.99)  # no entry of this batch lies on it
    alone = torch.cat([dictionary.encode(row[None]) for row in X])
    torch.testing.assert_close(alone, dictionary.encode(X))
    assert (alone[alone > 0] > dictionary.threshold).all()


def test_a_batch_without_features_leaves_the_threshold():
    dictionary = a_dictionary()
    dictionary.training_pass(X)
    before = dictionary.threshold.clone()
    with torch.no_grad():
        dictionary.b_enc.fill_(-100)
    assert dictionary.training_pass(X).features.nnz == 0
    assert dictionary.threshold == before
