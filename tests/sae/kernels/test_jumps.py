"""Steps and jumps, on numbers small enough for paper."""

import torch

from sae.kernels.jumps import jump_relu, step

Z = torch.tensor([0.1, 0.45, 0.55, 2.0])  # below, within the window on either side, above


def gradients(function):
    z, theta = Z.clone().requires_grad_(), torch.full((4,), 0.5, requires_grad=True)
    values = function(z, theta, 0.2)
    values.backward(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    return values.tolist(), z.grad, theta.grad


def test_a_jump_lets_through_what_is_above_and_moves_the_threshold_within_its_window():
    values, for_z, for_theta = gradients(jump_relu)
    assert values == [0, 0, Z[2], 2]
    assert for_z.tolist() == [0, 0, 3, 4]
    torch.testing.assert_close(for_theta, torch.tensor([0, -2 * 0.5 / 0.2, -3 * 0.5 / 0.2, 0]))


def test_a_step_counts_and_moves_nothing_but_the_threshold():
    values, for_z, for_theta = gradients(step)
    assert values == [0, 0, 1, 1]
    assert for_z is None
    torch.testing.assert_close(for_theta, torch.tensor([0, -2 / 0.2, -3 / 0.2, 0]))


def test_a_threshold_shared_by_rows_gets_the_sum_of_their_gradients():
    theta = torch.tensor([0.5, 0.5], requires_grad=True)
    step(torch.tensor([[0.45, 0.1], [0.55, 0.9]]), theta, 0.2).sum().backward()
    torch.testing.assert_close(theta.grad, torch.tensor([-10.0, 0.0]))
