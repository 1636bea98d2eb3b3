"""Every architecture finds a dictionary that was planted in the data."""

import pytest
import torch
from torch.nn.functional import normalize

from sae.architectures.base import StepContext
from sae.architectures.config import (
    BatchTopKConfig,
    GatedConfig,
    JumpReluConfig,
    MatryoshkaConfig,
    PAnnealingConfig,
    ReluAprilConfig,
    ReluConfig,
    TiedConfig,
    TopKConfig,
)
from sae.architectures.registry import ARCHITECTURES, build_dictionary

D_IN, NUM_PLANTED, FIRING = 32, 48, 3
STEPS = {"tied": 1000}  # the others take 600
OFFSET = 0.3
WITHOUT_BIAS = ("tied",)  # reconstructs by features alone, so that only data around 0 are sums of few of them

CONFIGS = {
    "relu": ReluConfig(d_sae=64, l1_coefficient=0.02),
    "relu_april": ReluAprilConfig(d_sae=64, l1_coefficient=1.5),
    "tied": TiedConfig(d_sae=64, l1_coefficient=0.03),
    "p_annealing": PAnnealingConfig(d_sae=64, l1_coefficient=0.2),
    "gated": GatedConfig(d_sae=64, l1_coefficient=0.4),
    "topk": TopKConfig(d_sae=64, k=FIRING, aux_k=16),
    "batch_topk": BatchTopKConfig(d_sae=64, k=FIRING, aux_k=16),
    "matryoshka": MatryoshkaConfig(d_sae=64, k=FIRING, aux_k=16, group_fractions=(0.5, 0.5)),
    "jumprelu": JumpReluConfig(d_sae=64, l0_coefficient=0.03, bandwidth=0.3, threshold_start=0.1),
}


def planted_batch(directions, batch, offset, generator):
    """Sums of three random directions, each 0.5 to 1.5 long, around an offset."""
    chosen = torch.rand(batch, NUM_PLANTED, generator=generator).topk(FIRING, dim=1).indices
    amounts = 0.5 + torch.rand(batch, FIRING, generator=generator)
    return torch.zeros(batch, NUM_PLANTED).scatter(1, chosen, amounts) @ directions + offset


def recovered(config, steps):
    """Cosine of each planted direction with the nearest feature, after a short training."""
    generator = torch.Generator().manual_seed(0)
    directions = normalize(torch.randn(NUM_PLANTED, D_IN, generator=generator))
    offset = 0.0 if config.architecture in WITHOUT_BIAS else OFFSET
    sample = planted_batch(directions, 2048, offset, generator)
    dictionary = build_dictionary(config, D_IN)
    dictionary.input_scale.fill_(D_IN**0.5 / sample.norm(dim=1).mean().item())
    dictionary.initialize(sample.mean(0) * dictionary.input_scale, generator)
    optimizer = torch.optim.Adam(dictionary.parameters(), lr=3e-3)
    silent = torch.zeros(dictionary.d_sae)
    for step in range(steps):
        context = StepContext(dead=silent >= 20, fraction=step / steps)
        found = dictionary.training_pass(planted_batch(directions, 512, offset, generator), context)
        optimizer.zero_grad()
        found.losses["total"].backward()
        dictionary.before_step()
        optimizer.step()
        dictionary.after_step()
        silent = torch.where(found.active, 0, silent + 1)
    return (directions @ normalize(dictionary.W_dec.detach()).T).amax(1)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_a_planted_dictionary_is_recovered(architecture):
    similarity = recovered(CONFIGS[architecture], STEPS.get(architecture, 600))
    assert similarity.mean() >= 0.9
    assert (similarity > 0.9).float().mean() >= 0.7
