"""The sparse type against the dense matrix it stands for."""

import pytest
import torch

from sae.kernels.sparse import SparseFeatures, as_dense, as_sparse, feature_sums, firings_of, flat_at_least

DENSE = torch.tensor([[0.0, 2.0, 0.0, 3.0], [0.0, 0.0, 0.0, 0.0], [1.0, 5.0, 0.0, 0.0]])


def test_the_dense_matrix_survives_the_way_through_the_sparse_type():
    features = SparseFeatures.from_dense(DENSE)
    assert features.row_pointers.tolist() == [0, 2, 2, 4]
    assert features.feature_ids.tolist() == [1, 3, 0, 1]
    assert features.values.tolist() == [2, 3, 1, 5]
    assert features.row_ids.tolist() == [0, 0, 2, 2]
    assert (features.batch, features.nnz, features.l0) == (3, 4, pytest.approx(4 / 3))
    assert torch.equal(features.to_dense(), DENSE)
    assert as_sparse(features) is features
    assert torch.equal(as_dense(DENSE), DENSE)


def test_the_order_by_feature_is_the_transposed_matrix():
    features = SparseFeatures.from_dense(DENSE)
    by_feature = features.by_feature
    transposed = SparseFeatures(by_feature.feature_pointers, by_feature.row_ids, features.values[by_feature.order], num_features=3)
    assert torch.equal(transposed.to_dense(), DENSE.T)


@pytest.mark.parametrize("features", [DENSE, SparseFeatures.from_dense(DENSE)], ids=["dense", "sparse"])
def test_counts_and_sums_are_the_same_whichever_way_features_are_held(features):
    assert firings_of(features).tolist() == [1, 2, 0, 1]
    assert feature_sums(features).tolist() == [5, 0, 6]


def test_a_stored_zero_has_not_fired():
    features = SparseFeatures(torch.tensor([0, 2]), torch.tensor([0, 2]), torch.tensor([0.0, 1.0]), num_features=3)
    assert features.active.tolist() == [False, False, True]


def test_gradients_pass_through_both_conversions():
    dense = DENSE.clone().requires_grad_()
    SparseFeatures.from_dense(dense).to_dense().square().sum().backward()
    assert torch.equal(dense.grad, 2 * DENSE)


def test_a_batch_in_which_nothing_fires():
    features = SparseFeatures.from_dense(torch.zeros(2, 3))
    assert (features.nnz, features.l0) == (0, 0)
    assert not features.active.any()
    assert torch.equal(features.to_dense(), torch.zeros(2, 3))
    assert features.by_feature.feature_pointers.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("least", [0.5, 0.0, -0.5])
def test_entries_that_reach_the_bound_of_their_row_whatever_its_sign(dtype, least):
    pre = torch.randn(7, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    pre[0, :3], pre[1, 5] = torch.tensor([0.0, -0.0, least]), least
    bound = torch.full((7, 1), least, dtype=dtype)
    bound[3] += 1
    wanted = [row * 64 + column for row in range(7) for column in range(64) if float(pre[row, column]) >= float(bound[row, 0])]
    assert flat_at_least(pre, bound).tolist() == wanted
