"""The point with the least total distance."""

import pytest
import torch

from sae.training.inputs import geometric_median


def total_distance(vectors, point):
    return (vectors.double() - point.double()).norm(dim=1).sum().item()


def test_the_median_of_points_on_a_line_is_the_middle_one():
    vectors = torch.tensor([[0.0, 0.0], [1.0, 0.0], [10.0, 0.0]])
    assert torch.allclose(geometric_median(vectors), torch.tensor([1.0, 0.0]), atol=1e-4)


def test_the_corners_of_a_square_have_their_median_where_the_diagonals_cross():
    vectors = torch.tensor([[0.0, 0.0], [2.0, 0.0], [2.0, 2.0], [0.0, 2.0]])
    assert torch.allclose(geometric_median(vectors), torch.tensor([1.0, 1.0]), atol=1e-5)


def test_a_third_of_outliers_moves_the_mean_and_hardly_the_median():
    generator = torch.Generator().manual_seed(0)
    inliers = torch.randn(200, 8, generator=generator)
    vectors = torch.cat([inliers, torch.full((100, 8), 1000.0)])
    assert geometric_median(vectors).norm() < 5
    assert vectors.mean(dim=0).norm() > 300


def test_no_small_step_away_from_the_median_shortens_the_total_distance():
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(500, 4, generator=generator).exp()
    median = geometric_median(vectors, tolerance=1e-9)
    best = total_distance(vectors, median)
    for direction in torch.randn(50, 4, generator=generator):
        assert total_distance(vectors, median + 1e-3 * direction) >= best - 1e-7


@pytest.mark.parametrize("number", [1, 5])
def test_equal_vectors_are_their_own_median(number):
    assert torch.equal(geometric_median(torch.full((number, 3), 2.5)), torch.full((3,), 2.5))


def test_the_dtype_of_the_vectors_is_kept():
    assert geometric_median(torch.zeros(3, 2, dtype=torch.float32)).dtype == torch.float32
