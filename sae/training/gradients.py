"""Gradients of a dictionary over workers: summed, at the price of what is not 0, and shortened.

A feature that fired for no vector of the global batch has no gradient: its column of W_enc, element of b_enc and row of W_dec are 0 on every
rank. So data ranks first tell each other which features have any, and then exchange only these, where that is fewer bytes than everything.
"""

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from sae.architectures.base import Dictionary
from sae.parallel.workers import Workers


@torch.no_grad()
def sum_gradients(dictionary: Dictionary, workers: Workers) -> None:
    """Replace every gradient by its sum over data ranks, which is that of the global batch: losses are divided by its rows already."""
    if workers.data_size == 1:
        return
    named = list(dictionary.named_parameters())
    touched = _touched(dictionary)
    present = torch.tensor([parameter.grad is not None for _, parameter in named], device=touched.device)
    counts = workers.sum_rows(torch.cat([touched, present]).int())
    feature_ids = counts[: dictionary.d_sae].nonzero().flatten()
    for (name, parameter), holders in zip(named, counts[dictionary.d_sae :].tolist(), strict=True):
        if holders == 0:
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        axis = dictionary.feature_axes.get(name)
        if axis is not None and len(feature_ids) < dictionary.d_sae:
            some = workers.sum_rows(parameter.grad.index_select(axis, feature_ids))
            parameter.grad.index_copy_(axis, feature_ids, some)
        else:
            parameter.grad.copy_(workers.sum_rows(parameter.grad))


@torch.no_grad()
def clip_gradients(dictionary: Dictionary, max_norm: float, workers: Workers) -> None:
    """Shorten the gradient of all parameters together to `max_norm`, as torch.nn.utils.clip_grad_norm_ does for one worker.

    g ← g · min(1, max_norm / (‖g‖ + 1e-6)), the norm over every feature wherever it is held; what each rank holds counts once.
    """
    held = {name: parameter.grad for name, parameter in dictionary.named_parameters() if parameter.grad is not None}
    if not held:
        return
    squares = {name: torch.linalg.vector_norm(gradient).square() for name, gradient in held.items()}
    zero = torch.zeros_like(next(iter(squares.values())))
    own = sum((square for name, square in squares.items() if name in dictionary.feature_axes), zero)
    shared = sum((square for name, square in squares.items() if name not in dictionary.feature_axes), zero)
    norm = (workers.sum_features(own) + shared).sqrt()
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for gradient in held.values():
        gradient.mul_(factor)


def _touched(dictionary: Dictionary) -> Bool[Tensor, " d_sae"]:
    """Which features have any gradient on this rank."""
    touched = torch.zeros(dictionary.d_sae, dtype=torch.bool, device=dictionary.b_dec.device)
    for name, axis in dictionary.feature_axes.items():
        parameter = getattr(dictionary, name, None)
        if isinstance(parameter, nn.Parameter) and parameter.grad is not None:
            others = tuple(dim for dim in range(parameter.ndim) if dim != axis)
            touched |= (parameter.grad != 0).any(dim=others) if others else parameter.grad != 0
    return touched
