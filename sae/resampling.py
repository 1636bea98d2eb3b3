"""Resampling of dead features: the seven steps of Towards Monosemanticity, at fractions of a run of any length.

Reference: Bricken et al. 2023, "Towards Monosemanticity", appendix "Neuron Resampling". There, in 1,000,000 steps of 8,192 vectors:

1. at steps 25,000, 50,000, 75,000 and 100,000 (2.5, 5, 7.5 and 10 % of the run);
2. a feature is dead if it has not fired in any of the previous 12,500 steps (half an interval);
3. the loss is computed on a random subset of 819,200 inputs;
4. each input gets a probability proportional to its loss squared;
5. for each dead feature one input is drawn; normalised to unit length it is the feature's new dictionary vector;
6. the feature's encoder vector is the same input normalised to 0.2 × the mean norm of the encoder vectors of the features that are
   alive, and its encoder bias is 0;
7. Adam's moments of every weight and bias so changed are reset.

Here steps 1 to 3 are fractions of the run. Left open there and decided here: inputs are drawn without replacement while there are
enough of them; where every feature is dead, step 6 takes the mean norm over all features; the step count of Adam's bias correction,
which all weights of a parameter share, stays.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, PositiveInt
from torch import Tensor

from sae.architectures.base import Dictionary
from sae.config import Config
from sae.optimization import reset_moments

ENCODER_NORM_FACTOR = 0.2


class ResamplingConfig(Config):
    """When dead features are resampled, and from how many inputs."""

    at_fractions: tuple[float, ...] = Field((0.1, 0.2, 0.3, 0.4), description="when, in fractions of the steps of the run")
    silent_fraction: float = Field(
        0.05, gt=0, lt=1, description="silent for this fraction of the run's steps means dead; half an interval in the paper"
    )
    num_inputs: PositiveInt = Field(32_768, description="inputs whose loss is computed, rounded up to whole batches; 819,200 in the paper")

    def steps(self, num_steps: int) -> set[int]:
        """After how many steps features are resampled, in a run of `num_steps`."""
        return {round(fraction * num_steps) for fraction in self.at_fractions} - {0, num_steps}

    def silent_steps(self, num_steps: int) -> int:
        """For how many steps a dead feature has been silent."""
        return max(1, round(self.silent_fraction * num_steps))


@dataclass
class InputSource:
    """Where the random subset of inputs comes from: batches by their global number, so that every world size draws the same."""

    read: Callable[[int], Float[Tensor, "batch d_in"]]
    num_batches: int
    batch_size: int

    def choose(self, num_inputs: int, generator: torch.Generator) -> list[int]:
        """The numbers of enough batches for `num_inputs`, drawn from the whole run."""
        wanted = min(-(-num_inputs // self.batch_size), self.num_batches)
        return sorted(torch.randperm(self.num_batches, generator=generator)[:wanted].tolist())


@torch.no_grad()
def resample(
    dictionary: Dictionary,
    optimizer: torch.optim.Adam,
    dead: Bool[Tensor, " d_sae"],
    inputs: InputSource,
    num_inputs: int,
    generator: torch.Generator,
) -> Int[Tensor, " features"]:
    """Give every dead feature new weights (steps 3 to 7); returns which were changed.

    Args:
        dictionary: changed in place.
        optimizer: Adam over its parameters; the moments of what changes are reset.
        dead: the dead features (step 2).
        inputs: where inputs come from.
        num_inputs: size of the random subset of inputs.
        generator: seeded by the caller from (seed, step).
    """
    feature_ids = dead.nonzero().flatten()
    if len(feature_ids) == 0:
        return feature_ids
    numbers = inputs.choose(num_inputs, generator)
    losses = torch.cat([dictionary.vector_losses(inputs.read(number)).cpu() for number in numbers])
    chosen = draw_inputs(sampling_probabilities(losses), len(feature_ids), generator)
    replace_features(dictionary, dead, _read_rows(inputs, numbers, chosen).to(dead.device))
    reset_moments(optimizer, dictionary, feature_ids)
    return feature_ids


def sampling_probabilities(losses: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """p_i = loss_i² / Σ_j loss_j² in float64 (step 4); uniform where no input has any loss."""
    squares = losses.double().square()
    total = squares.sum()
    return squares / total if total > 0 else torch.full_like(squares, 1 / len(squares))


def draw_inputs(probabilities: Float[Tensor, " batch"], num: int, generator: torch.Generator) -> Int[Tensor, " num"]:
    """Draw `num` inputs (step 5), without replacement unless fewer than `num` have any probability."""
    enough = int((probabilities > 0).sum()) >= num
    return torch.multinomial(probabilities, num, replacement=not enough, generator=generator)


@torch.no_grad()
def replace_features(dictionary: Dictionary, dead: Bool[Tensor, " d_sae"], vectors: Float[Tensor, "features d_in"]) -> None:
    """Point the dead features at `vectors`, one each (steps 5 and 6)."""
    alive = ~dead if not dead.all() else dead
    encoder_norm = ENCODER_NORM_FACTOR * torch.linalg.vector_norm(dictionary.W_enc[:, alive], dim=0).mean()
    directions = vectors / torch.linalg.vector_norm(vectors, dim=1, keepdim=True).clamp(min=torch.finfo(vectors.dtype).tiny)
    dictionary.W_dec[dead] = directions
    dictionary.W_enc[:, dead] = encoder_norm * directions.T
    dictionary.b_enc[dead] = 0.0


def seeded_generator(seed: int, step: int) -> torch.Generator:
    """The random numbers of one resampling: a function of the seed and the step alone."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0]))


def _read_rows(inputs: InputSource, numbers: list[int], chosen: Int[Tensor, " features"]) -> Float[Tensor, "features d_in"]:
    # Only losses are kept of the first reading: 819,200 inputs are two gigabytes, their losses three megabytes.
    rows: list[tuple[Tensor, Tensor]] = []
    for place, number in enumerate(numbers):
        where = (chosen // inputs.batch_size == place).nonzero().flatten()
        if len(where):
            rows.append((where, inputs.read(number)[chosen[where] % inputs.batch_size]))
    order = torch.cat([where for where, _ in rows]).argsort()
    return torch.cat([vectors for _, vectors in rows])[order]
