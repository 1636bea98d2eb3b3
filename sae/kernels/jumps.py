"""Steps and jumps at a threshold, with the straight-through gradients that make the threshold trainable.

A step has no gradient almost everywhere. In its place stands an estimate of the derivative of the *expected* step: the density of
values near the threshold, by a rectangle K(u) = 1[|u| < 1/2] of a given bandwidth ε around it.

Reference: Rajamanoharan et al. 2024 (arXiv 2407.14435), sections 3 and 4.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


class JumpRelu(torch.autograd.Function):
    """z H(z − θ); gradients H(z − θ) for z, and −(θ/ε) K((z − θ)/ε) for θ."""

    @staticmethod
    def forward(ctx, z, theta, bandwidth):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN205, D102
        ctx.save_for_backward(z, theta)
        ctx.bandwidth = bandwidth
        return torch.where(z > theta, z, 0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN205, D102
        z, theta = ctx.saved_tensors
        at_threshold = -(theta / ctx.bandwidth) * _near(z, theta, ctx.bandwidth) * gradient
        return torch.where(z > theta, gradient, 0.0), at_threshold.sum_to_size(theta.shape), None


class Step(torch.autograd.Function):
    """H(z − θ); gradients 0 for z, and −(1/ε) K((z − θ)/ε) for θ."""

    @staticmethod
    def forward(ctx, z, theta, bandwidth):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN205, D102
        ctx.save_for_backward(z, theta)
        ctx.bandwidth = bandwidth
        return (z > theta).to(z.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN205, D102
        z, theta = ctx.saved_tensors
        at_threshold = -(1 / ctx.bandwidth) * _near(z, theta, ctx.bandwidth) * gradient
        return None, at_threshold.sum_to_size(theta.shape), None


def jump_relu(z: Float[Tensor, "..."], theta: Float[Tensor, "..."], bandwidth: float) -> Float[Tensor, "..."]:
    """Values above their threshold, the others 0, with the straight-through gradient for the threshold."""
    return JumpRelu.apply(z, theta, bandwidth)


def step(z: Float[Tensor, "..."], theta: Float[Tensor, "..."], bandwidth: float) -> Float[Tensor, "..."]:
    """1 for values above their threshold, else 0, with the straight-through gradient for the threshold."""
    return Step.apply(z, theta, bandwidth)


def _near(z: Float[Tensor, "..."], theta: Float[Tensor, "..."], bandwidth: float) -> Float[Tensor, "..."]:
    return ((z - theta).abs() < bandwidth / 2).to(z.dtype)
