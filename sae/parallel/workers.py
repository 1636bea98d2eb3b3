"""Other processes as the mathematics sees them: sums and gathers over workers, each of them the identity for one process alone.

Work is split along two axes. Along *data*, ranks hold different rows of the same global batch and the same weights; along *features*, they hold
different features (columns of W_enc, rows of W_dec) of the same dictionary and the same rows. The architectures are written against `Workers`
and do not know which it is; `sae.parallel.process_groups` has the one that talks to torch.distributed.
"""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor


class Workers:
    """One process alone; subclasses talk to others. Every method is collective: all ranks of its axis call it, in the same order.

    Losses are sums over local rows divided by the rows (or the variance) of the global batch, so that the sum of all ranks' gradients is the
    gradient that one worker would have.

    Args:
        device: where this process computes.

    Attributes:
        data_rank, data_size: which rows of the global batch this process holds: contiguous, `[rank*B//size, (rank+1)*B//size)`.
        feature_rank, feature_size: which features it holds: contiguous, `[rank*d_sae/size, (rank+1)*d_sae/size)`.
        seconds: wall time spent in exchanges so far.
        bytes_sent: bytes that this process has given into exchanges so far.
    """

    data_rank: int = 0
    data_size: int = 1
    feature_rank: int = 0
    feature_size: int = 1
    seconds: float = 0.0
    bytes_sent: int = 0

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.device = device

    def sum_rows(self, values: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """Sum over data ranks, for statistics of the global batch; no gradient flows through it."""
        return values

    def num_rows(self, local: int) -> int:
        """Rows of the global batch, of which this rank holds `local`."""
        return local

    def gather_rows(self, values: Shaped[Tensor, " local"]) -> Shaped[Tensor, " all"]:
        """Gather what the data ranks hold, in the order of their ranks; they may hold different numbers. No gradient flows through it."""
        return values

    def sum_features(self, partial: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Sum over feature ranks of partial results, such as reconstructions. Backward: the identity, since every rank goes on with the same sum."""
        return partial

    def to_features(self, replicated: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Pass on what every feature rank holds alike into the features: the identity. Backward: the sum over feature ranks."""
        return replicated

    def gather_features(self, values: Shaped[Tensor, "... local"]) -> Shaped[Tensor, "... all"]:
        """Gather what the feature ranks hold, one after the other along the last axis; equal sizes. No gradient flows through it."""
        return values

    @property
    def alone(self) -> bool:
        """Say whether there is no other process."""
        return self.data_size == self.feature_size == 1

    @property
    def leader(self) -> bool:
        """Say whether this is the one process that writes what all of them hold."""
        return self.data_rank == self.feature_rank == 0

    def sum_all(self, values: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """Sum over all ranks of both axes; no gradient flows through it."""
        return self.sum_rows(self.sum_features(values.detach()))

    def agree(self, number: int) -> int:
        """The leader's number, on every rank: also a point that none passes before all have reached it."""
        return number if self.alone else int(self.sum_all(torch.tensor(number if self.leader else 0)).item())


ALONE = Workers()
