"""Both architectures find a dictionary that was planted in the data."""

import pytest
import torch
from torch.nn.functional import normalize

from sae.architectures.base import StepContext
from sae.architectures.config import ReluConfig, TopKConfig
from sae.architectures.registry import ARCHITECTURES, build_dictionary

D_IN, NUM_PLANTED, FIRING = 32, 48, 3

CONFIGS = {"relu": ReluConfig(d_sae=64, l1_coefficient=0.02), "topk": TopKConfig(d_sae=64, k=FIRING, aux_k=16)}


def planted_batch(directions, batch, generator):
    """Sums of three random directions, each 0.5 to 1.5 long, around an offset."""
    chosen = torch.rand(batch, NUM_PLANTED, generator=generator).topk(FIRING, dim=1).indices
    amounts = 0.5 + torch.rand(batch, FIRING, generator=generator)
    return torch.zeros(batch, NUM_PLANTED).scatter(1, chosen, amounts) @ directions + 0.3


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_a_planted_dictionary_is_recovered(architecture):
    generator = torch.Generator().manual_seed(0)
    directions = normalize(torch.randn(NUM_PLANTED, D_IN, generator=generator))
    sample = planted_batch(directions, 2048, generator)
    dictionary = build_dictionary(CONFIGS[architecture], D_IN)
    dictionary.input_scale.fill_(D_IN**0.5 / sample.norm(dim=1).mean().item())
    dictionary.initialize(sample.mean(0) * dictionary.input_scale, generator)
    optimizer = torch.optim.Adam(dictionary.parameters(), lr=3e-3)
    silent = torch.zeros(dictionary.d_sae)
    for _ in range(600):
        found = dictionary.training_pass(planted_batch(directions, 512, generator), StepContext(dead=silent >= 20))
        optimizer.zero_grad()
        found.losses["total"].backward()
        dictionary.before_step()
        optimizer.step()
        dictionary.after_step()
        silent = torch.where(found.active, 0, silent + 1)
    similarity = (directions @ dictionary.W_dec.detach().T).amax(1)
    assert similarity.mean() >= 0.9
    assert (similarity > 0.9).float().mean() >= 0.9
