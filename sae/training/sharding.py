"""Feature-parallel training: a dictionary whose features are spread over workers, gathered again to be saved, and its summed gradients.

Feature rank r of W holds features `[r·d_sae/W, (r+1)·d_sae/W)`: columns of W_enc, elements of b_enc, rows of W_dec. Every rank holds what belongs
to no feature (b_dec, scales). The whole dictionary is saved, so that a run may resume with another number of workers.

A feature that fired for no vector of the global batch has no gradient: its column of W_enc, element of b_enc and row of W_dec are 0 on every
rank. So data ranks first tell each other which features have any, and then exchange only these, where that is fewer bytes than everything.
"""

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor, nn

from sae.architectures.base import Dictionary
from sae.errors import ConfigError
from sae.parallel.workers import Workers


@torch.no_grad()
def shard_dictionary(dictionary: Dictionary, workers: Workers) -> None:
    """Keep only this rank's features of a whole dictionary, in place.

    Raises:
        ConfigError: the architecture cannot be spread, or its features do not divide evenly.
    """
    if workers.feature_size == 1:
        return
    if not dictionary.feature_parallel:
        raise ConfigError(f"architecture {dictionary.architecture!r} cannot be spread over workers by features: choose trainer.parallel data")
    if dictionary.d_sae % workers.feature_size:
        raise ConfigError(f"d_sae {dictionary.d_sae} does not divide by {workers.feature_size} workers: choose another d_sae or trainer.num_workers")
    for name, axis in dictionary.feature_axes.items():
        tensor = getattr(dictionary, name, None)
        if isinstance(tensor, nn.Parameter):
            setattr(dictionary, name, nn.Parameter(own_features(tensor, axis, workers), requires_grad=tensor.requires_grad))
        elif isinstance(tensor, Tensor):
            setattr(dictionary, name, own_features(tensor, axis, workers))
    dictionary.d_sae //= workers.feature_size


def own_features(whole: Shaped[Tensor, "..."], axis: int | None, workers: Workers) -> Shaped[Tensor, "..."]:
    """This rank's part of a tensor whose features lie along `axis`; all of it where it has none."""
    if axis is None or workers.feature_size == 1:
        return whole
    local = whole.shape[axis] // workers.feature_size
    return whole.narrow(axis, workers.feature_rank * local, local).clone(memory_format=torch.preserve_format)


def all_features(part: Shaped[Tensor, "..."], axis: int | None, workers: Workers) -> Shaped[Tensor, "..."]:
    """The whole of a tensor of which each rank holds its features along `axis`; collective."""
    if axis is None or workers.feature_size == 1:
        return part
    return workers.gather_features(part.movedim(axis, -1)).movedim(-1, axis)


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
    """Find the features that have any gradient on this rank."""
    touched = torch.zeros(dictionary.d_sae, dtype=torch.bool, device=dictionary.b_dec.device)
    for name, axis in dictionary.feature_axes.items():
        parameter = getattr(dictionary, name, None)
        if isinstance(parameter, nn.Parameter) and parameter.grad is not None:
            others = tuple(dim for dim in range(parameter.ndim) if dim != axis)
            touched |= (parameter.grad != 0).any(dim=others) if others else parameter.grad != 0
    return touched
