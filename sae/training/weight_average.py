"""The running average of a dictionary's weights, which is saved in their place where it is asked for."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae.architectures.base import Dictionary


class WeightAverage:
    """w̄_t = (1 − d) Σ_s d^(t−s) w_s / (1 − d^t): the mean of the weights after each step, weighted down by `decay` a step.

    Divided by the sum of its weights, the average owes nothing to the initial weights.

    Reference: Gao et al. 2024 (arXiv 2406.04093): an exponential moving average of weights, 0.999.

    Args:
        dictionary: the one that is averaged.
        decay: d.

    Attributes:
        sums: (1 − d) Σ_s d^(t−s) w_s by parameter; with `steps` the whole state.
    """

    def __init__(self, dictionary: Dictionary, decay: float) -> None:
        self.dictionary, self.decay, self.steps = dictionary, decay, 0
        self.sums: dict[str, Float[Tensor, "..."]] = {name: torch.zeros_like(parameter) for name, parameter in dictionary.named_parameters()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        self.steps += 1
        for name, parameter in self.dictionary.named_parameters():
            self.sums[name].lerp_(parameter, 1 - self.decay)

    @torch.no_grad()
    def forget(self, feature_ids: Int[Tensor, " features"]) -> None:
        """Begin anew for features that were resampled: their old weights are no part of what they are now."""
        total = 1 - self.decay**self.steps
        for name, axis in self.dictionary.feature_axes.items():
            if name in self.sums:
                now = self.dictionary.get_parameter(name).index_select(axis, feature_ids) * total
                self.sums[name].index_copy_(axis, feature_ids, now)

    def weights(self) -> dict[str, Float[Tensor, "..."]]:
        """The average of each parameter."""
        total = 1 - self.decay**self.steps
        return {name: summed / total for name, summed in self.sums.items()}
