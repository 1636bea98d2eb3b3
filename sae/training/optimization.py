"""Adam for a dictionary and the running average of its weights.

Rates are pure functions of the step. Moments can be reset feature by feature. The average is saved in place of the weights where it is asked for.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from sae.architectures.base import Dictionary
from sae.config import Config, Real

MOMENTS = ("exp_avg", "exp_avg_sq")
# Along which axis of a parameter its features lie.
FEATURE_AXES = {"W_enc": 1, "b_enc": 0, "W_dec": 0}


class OptimizerConfig(Config):
    """Adam and its learning rate over a run."""

    learning_rate: Real = Field(1e-3, gt=0, le=100, description="Adam's rate between warm-up and decay")
    beta1: Real = Field(0.9, ge=0, lt=1, description="decay of the mean of gradients, per step")
    beta2: Real = Field(0.999, ge=0, lt=1, description="decay of the mean of squared gradients, per step")
    eps: Real = Field(1e-8, gt=0, le=1, description="added to the root of the mean of squared gradients")
    warm_up_fraction: Real = Field(0.0, ge=0, le=1, description="fraction of the steps over which the rate rises")
    warm_up_shape: Literal["linear", "cosine"] = Field("linear", description="how it rises: evenly, or as half a cosine")
    warm_up_from: Real = Field(0.0, ge=0, le=1, description="fraction of the rate at which it begins to rise")
    decay_fraction: Real = Field(0.2, ge=0, le=1, description="fraction of the steps, at the end, over which the rate falls linearly to 0")
    max_gradient_norm: Real | None = Field(None, gt=0, le=10**6, description="norm to which a longer gradient is shortened; null: never")


def learning_rate(config: OptimizerConfig, step: int, num_steps: int) -> float:
    """Adam's rate for step `step` (from 0) of `num_steps`: warm-up, constant, linear decay; never 0 before the end.

    With t = (step + 1) / warm-up steps, the rate rises as a + (1 − a) t, or with a cosine as a + (1 − a) (1 − cos πt) / 2, where a is
    `warm_up_from`. Reference for the cosine from 0.1: Lieberum et al. 2024 (Gemma Scope, arXiv 2408.05147).
    """
    warm_up = config.warm_up_fraction * num_steps
    decay = config.decay_fraction * num_steps
    risen = min(1.0, (step + 1) / warm_up) if warm_up > 0 else 1.0
    if config.warm_up_shape == "cosine":
        risen = (1 - math.cos(math.pi * risen)) / 2
    rising = config.warm_up_from + (1 - config.warm_up_from) * risen
    falling = (num_steps - step) / decay if decay > 0 else 1.0
    return config.learning_rate * min(1.0, rising, falling)


def build_optimizer(parameters: nn.Module, config: OptimizerConfig) -> torch.optim.Adam:
    """Adam over all parameters of a module, its moments already there (all 0), so that they can be saved and reset before the first step."""
    betas = (config.beta1, config.beta2)
    optimizer = torch.optim.Adam(parameters.parameters(), lr=config.learning_rate, betas=betas, eps=config.eps, fused=True)
    for parameter in parameters.parameters():
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            **{moment: torch.zeros_like(parameter, memory_format=torch.preserve_format) for moment in MOMENTS},
        }
    return optimizer


def set_learning_rate(optimizer: torch.optim.Adam, rate: float) -> None:
    """Use `rate` from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = rate


@torch.no_grad()
def reset_moments(optimizer: torch.optim.Adam, dictionary: nn.Module, feature_ids: Int[Tensor, " features"]) -> None:
    """Set Adam's moments of some features to 0: their columns of `W_enc`, elements of `b_enc` and rows of `W_dec`, and nothing else."""
    parameters = dict(dictionary.named_parameters())
    for name, axis in FEATURE_AXES.items():
        for moment in MOMENTS:
            optimizer.state[parameters[name]][moment].index_fill_(axis, feature_ids, 0.0)


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
