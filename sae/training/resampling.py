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

Here steps 1 to 3 are fractions of the run, and the inputs of step 3 come from the batches that it has seen. Left open there and decided
here: inputs are drawn without replacement while there are enough of them; where every feature is dead, step 6 takes the mean norm over all
features; the step count of Adam's bias correction, which all weights of a parameter share, stays. In a transcoder the dictionary vector
comes from the input's target, the encoder vector from the input itself.

Over several workers the result is that of one, to the bit for equal weights: data ranks take whole batches in turn, so that each loss is
computed among the same rows; feature ranks each change their own of the dead features, which are numbered over all ranks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, PositiveInt
from torch import Tensor

from sae.architectures.base import Dictionary, StepContext
from sae.config import Config, Real
from sae.parallel.workers import ALONE, Workers
from sae.training.optimization import reset_moments

ENCODER_NORM_FACTOR = 0.2


class ResamplingConfig(Config):
    """When dead features are resampled, and from how many inputs."""

    at_fractions: tuple[Annotated[Real, Field(ge=0, le=1)], ...] = Field(
        (0.1, 0.2, 0.3, 0.4), max_length=100, description="when, in fractions of the steps of the run"
    )
    silent_fraction: Real = Field(
        0.05, gt=0, lt=1, description="silent for this fraction of the run's steps means dead; half an interval in the paper"
    )
    num_inputs: PositiveInt = Field(32_768, le=10**7, description="inputs whose loss is computed, rounded up to whole batches; 819,200 in the paper")

    def steps(self, num_steps: int) -> set[int]:
        """After how many steps features are resampled, in a run of `num_steps`."""
        return {round(fraction * num_steps) for fraction in self.at_fractions} - {0, num_steps}

    def silent_steps(self, num_steps: int) -> int:
        """For how many steps a dead feature has been silent."""
        return max(1, round(self.silent_fraction * num_steps))


@dataclass(frozen=True)
class InputSource:
    """Where the random subset of inputs comes from: whole batches by their global number, so that every world size draws the same.

    Args:
        read: the vectors of a batch, and their targets for a transcoder.
        batch_size: vectors a batch.
    """

    read: Callable[[int], tuple[Float[Tensor, "batch d_in"], Float[Tensor, "batch d_out"] | None]]
    batch_size: int

    def choose(self, num_inputs: int, before: int, generator: torch.Generator) -> list[int]:
        """The numbers of enough batches for `num_inputs`, drawn from the first `before` batches of the run."""
        wanted = min(-(-num_inputs // self.batch_size), before)
        return sorted(torch.randperm(before, generator=generator)[:wanted].tolist())


@torch.no_grad()
def resample(
    dictionary: Dictionary,
    optimizer: torch.optim.Adam,
    dead: Bool[Tensor, " d_sae"],
    inputs: InputSource,
    numbers: list[int],
    generator: torch.Generator,
    workers: Workers = ALONE,
) -> Int[Tensor, " features"]:
    """Give every dead feature new weights (steps 3 to 7); returns which were changed, numbered over all workers.

    Args:
        dictionary: changed in place.
        optimizer: Adam over its parameters; the moments of what changes are reset.
        dead: the dead features (step 2) among those that this worker holds.
        inputs: where inputs come from.
        numbers: the batches that make up the random subset of inputs.
        generator: seeded by the caller from (seed, step).
        workers: who else holds rows or features.
    """
    dead_anywhere = workers.gather_features(dead)
    feature_ids = dead_anywhere.nonzero().flatten()
    if len(feature_ids) == 0:
        return feature_ids
    losses = _losses(dictionary, inputs, numbers, workers)
    chosen = draw_inputs(sampling_probabilities(losses), len(feature_ids), generator)
    first = workers.feature_rank * len(dead)
    own = ((feature_ids >= first) & (feature_ids < first + len(dead))).cpu()
    norm = new_encoder_norm(dictionary, dead_anywhere, workers)
    vectors, targets = _read_rows(inputs, numbers, chosen[own])
    replace_features(dictionary, dead, vectors.to(dead.device), norm, None if targets is None else targets.to(dead.device))
    reset_moments(optimizer, dictionary, dead.nonzero().flatten())
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
def replace_features(
    dictionary: Dictionary,
    dead: Bool[Tensor, " d_sae"],
    vectors: Float[Tensor, "features d_in"],
    encoder_norm: Float[Tensor, ""],
    targets: Float[Tensor, "features d_out"] | None = None,
) -> None:
    """Point the dead features at `vectors`, one each (steps 5 and 6); a transcoder's dictionary vectors at `targets`."""
    directions = _unit(vectors)
    dictionary.W_dec[dead] = (directions if targets is None else _unit(targets)).to(dictionary.W_dec.dtype)
    dictionary.W_enc[:, dead] = (encoder_norm * directions.T).to(dictionary.W_enc.dtype)
    dictionary.b_enc[dead] = 0.0


def seeded_generator(seed: int, step: int) -> torch.Generator:
    """The random numbers of one resampling: a function of the seed and the step alone."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0]))


def _losses(dictionary: Dictionary, inputs: InputSource, numbers: list[int], workers: Workers) -> Float[Tensor, " inputs"]:
    """The loss of every input, batch after batch in the order of `numbers`, whichever rank computed it."""
    ranks, alone = workers.data_size, workers.feature_size == 1
    losses = [torch.zeros(0, dtype=torch.float64)]
    for number in numbers[workers.data_rank :: ranks]:
        x, target = inputs.read(number)
        losses.append(dictionary.vector_losses(x, StepContext(target=target, workers=ALONE if alone else workers)).cpu().double())
    gathered = workers.gather_rows(torch.cat(losses)).view(-1, inputs.batch_size)
    order = torch.cat([torch.arange(len(numbers))[rank::ranks] for rank in range(ranks)])
    return gathered[order.argsort()].flatten()


def new_encoder_norm(dictionary: Dictionary, dead_anywhere: Bool[Tensor, " all_features"], workers: Workers = ALONE) -> Float[Tensor, ""]:
    """0.2 × the mean norm of the encoder vectors of the features alive (step 6), on whichever workers they are."""
    norms = workers.gather_features(torch.linalg.vector_norm(dictionary.W_enc, dim=0))
    return ENCODER_NORM_FACTOR * norms[~dead_anywhere if not dead_anywhere.all() else dead_anywhere].mean()


def _unit(vectors: Float[Tensor, "features width"]) -> Float[Tensor, "features width"]:
    return vectors / torch.linalg.vector_norm(vectors, dim=1, keepdim=True).clamp(min=torch.finfo(vectors.dtype).tiny)


def _read_rows(
    inputs: InputSource, numbers: list[int], chosen: Int[Tensor, " features"]
) -> tuple[Float[Tensor, "features d_in"], Float[Tensor, "features d_out"] | None]:
    # Only losses are kept of the first reading: 819,200 inputs are two gigabytes, their losses three megabytes.
    places, vectors, targets = [], [], []
    for place, number in enumerate(numbers):
        where = (chosen // inputs.batch_size == place).nonzero().flatten()
        if len(where) or place == 0:  # the first is read in any case: a worker without a dead feature must know the widths, too
            x, target = inputs.read(number)
            rows = (chosen[where] % inputs.batch_size).to(x.device)
            places.append(where)
            vectors.append(x[rows])
            targets.append(None if target is None else target[rows])
    order = torch.cat(places).argsort()
    aligned = [target for target in targets if target is not None]
    return torch.cat(vectors)[order], torch.cat(aligned)[order] if aligned else None
