"""Sparsity figures on features planted by hand."""

import numpy as np
import pytest
import torch

from sae.evaluation.sparsity import SparsitySums, sparsity_sums
from sae.kernels.sparse import SparseFeatures

# Three tokens, five features: feature 1 fires on all tokens, 3 on one, 4 carries a stored zero.
FEATURES = SparseFeatures(
    row_pointers=torch.tensor([0, 2, 4, 5]), feature_ids=torch.tensor([1, 3, 1, 4, 1]), values=torch.tensor([0.5, 2.0, 1.0, 0.0, 1.5]), num_features=5
)

SEQUENCES = torch.tensor([0, 0, 1])  # of the three tokens


def test_l0_l1_and_density():
    sums = sparsity_sums(FEATURES, SEQUENCES)
    figures = sums.figures()
    assert sums.fired.tolist() == [0, 3, 0, 1, 0]
    assert sums.fired_sequences.tolist() == [0, 2, 0, 1, 0]
    assert sums.density == pytest.approx([0, 1, 0, 1 / 3, 0])
    assert (figures.num_tokens, figures.l0, figures.l1) == (3, pytest.approx(4 / 3), pytest.approx(5 / 3))
    assert figures.silent_fraction == 0.6
    assert figures.density_histogram.never == 3
    assert sum(figures.density_histogram.counts) == 2


def test_merged_parts_count_what_the_whole_counts():
    sums = sparsity_sums(FEATURES, SEQUENCES)
    twice = sums.merge(sums)
    assert (twice.tokens, twice.fired.tolist(), twice.value) == (6, [0, 6, 0, 2, 0], 10)
    assert twice.figures().l0 == sums.figures().l0


def planted(tokens, fired):
    return SparsitySums(tokens=tokens, fired=np.array(fired), value=0.0, fired_sequences=np.array(fired)).figures()


def test_each_density_falls_into_its_bin():
    figures = planted(10_000_000, [0, 3, 1_500, 150_000, 10_000_000])
    histogram = figures.density_histogram
    filled = {edge: count for edge, count in zip(histogram.log10_edges, histogram.counts, strict=False) if count}
    assert filled == {-6.6: 1, -4.0: 1, -2.0: 1, -0.2: 1}  # 3e-7, 1.5e-4, 1.5e-2, 1
    assert histogram.never == 1


def test_shares_above_one_and_ten_percent():
    figures = planted(1000, [10, 11, 100, 101, 0])
    assert (figures.share_above_1_percent, figures.share_above_10_percent) == (0.6, 0.2)


def test_ultra_low_density_is_only_told_where_it_can_be_seen():
    assert planted(10_000_000, [3, 20, 0, 0]).ultra_low_density_fraction == 0.25
    few = planted(200_000, [1, 20, 0, 0])
    assert few.ultra_low_density_fraction is None
    assert few.density_resolution == 1 / 200_000
