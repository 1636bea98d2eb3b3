"""What is particular to p-annealing: when p changes, and what becomes of the coefficient."""

import copy

import pytest
import torch

from sae.architectures.base import StepContext
from sae.architectures.config import PAnnealingConfig
from sae.architectures.registry import build_dictionary
from sae.errors import ConfigError

D_IN, STEPS = 16, 100
CONFIG = PAnnealingConfig(d_sae=32, l1_coefficient=0.1, anneal_start=0.2, num_changes=5, queue_length=4)


def batch(step):
    return torch.randn(50, D_IN, generator=torch.Generator().manual_seed(step))


def published(dictionary):
    """PAnnealTrainer's bookkeeping for penalties Lp^p, step by step: the p and the coefficient that each step's loss had."""
    at = torch.linspace(0.2 * STEPS, STEPS, 5, dtype=int).tolist()
    powers = torch.linspace(1, CONFIG.p_end, 5).tolist()
    p, upcoming, coefficient, changes, queue, seen = 1.0, None, CONFIG.l1_coefficient, 0, [], []
    for step in range(STEPS):
        f = dictionary.encode(batch(step)).detach() / D_IN**0.5
        now = f.pow(p).sum(1).mean().item()
        seen.append((p, coefficient, coefficient * now))
        if upcoming is not None:
            queue = [*queue, (now, f.pow(upcoming).sum(1).mean().item())][-CONFIG.queue_length :]
        if step in at:
            if upcoming is not None:
                coefficient *= sum(pair[0] for pair in queue) / sum(pair[1] for pair in queue)
            p = powers[changes]
            upcoming = powers[changes + 1] if changes < 4 else CONFIG.p_end
            changes += 1
    return seen


def test_p_and_its_coefficient_follow_the_published_bookkeeping():
    dictionary = build_dictionary(CONFIG, D_IN)
    expected = published(dictionary)
    assert len({p for p, _, _ in expected}) == 4
    for step, (p, coefficient, penalty) in enumerate(expected):
        assert dictionary.power(int(dictionary.changes) - 1) == pytest.approx(p)
        assert CONFIG.l1_coefficient * dictionary.factor.item() == pytest.approx(coefficient, rel=1e-5)
        losses = dictionary.training_pass(batch(step), StepContext(fraction=step / STEPS)).losses
        assert losses["sparsity"].item() == pytest.approx(penalty, rel=1e-5)


def test_a_resumed_run_goes_on_with_the_same_bits():
    dictionary = build_dictionary(CONFIG, D_IN)
    resumed = None
    for step in range(STEPS):
        context = StepContext(fraction=step / STEPS)
        losses = dictionary.training_pass(batch(step), context).losses
        if resumed is not None:
            assert resumed.training_pass(batch(step), context).losses == losses
        elif step == 42:
            resumed = build_dictionary(CONFIG, D_IN)
            resumed.load_state_dict(copy.deepcopy(dictionary.state_dict()))


def test_features_that_do_not_fire_have_no_gradient_at_any_power():
    dictionary = build_dictionary(CONFIG, D_IN)
    dictionary.changes.fill_(5)
    dictionary.training_pass(batch(0)).losses["total"].backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in dictionary.parameters())


def test_annealing_that_ends_before_it_begins_is_refused():
    with pytest.raises(ConfigError, match=r"anneal_start 0\.5 is not before anneal_end 0\.4"):
        PAnnealingConfig.parse({"anneal_start": 0.5, "anneal_end": 0.4})
