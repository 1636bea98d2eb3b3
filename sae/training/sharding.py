"""Feature-parallel training: a dictionary whose features are spread over workers, and put together again to be saved.

Feature rank r of W holds features `[r·d_sae/W, (r+1)·d_sae/W)`: columns of W_enc, elements of b_enc, rows of W_dec. What belongs to no feature
(b_dec, scales) every rank holds. What is saved is always the whole, so that a run may go on with another number of workers.
"""

import torch
from jaxtyping import Shaped
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
