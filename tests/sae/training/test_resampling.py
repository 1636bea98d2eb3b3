"""Resampling of dead features, step by step (Bricken et al. 2023, "Neuron Resampling")."""

import pytest
import torch

from sae.architectures.config import ReluConfig
from sae.architectures.registry import build_dictionary
from sae.training.optimization import MOMENTS, OptimizerConfig, build_optimizer
from sae.training.resampling import (
    InputSource,
    ResamplingConfig,
    draw_inputs,
    new_encoder_norm,
    replace_features,
    resample,
    sampling_probabilities,
    seeded_generator,
)

DEAD = torch.tensor([False, True, False, False, True, False])


@pytest.fixture
def dictionary():
    """Six features in four dimensions; the encoder vectors of the alive ones have norms 1, 2, 3 and 6, so 3 in the mean."""
    dictionary = build_dictionary(ReluConfig(d_sae=6, l1_coefficient=0.1), 4)
    dictionary.initialize(torch.zeros(4), torch.Generator().manual_seed(0))
    with torch.no_grad():
        dictionary.W_enc.copy_(torch.eye(4, 6) + torch.eye(4).roll(1, 0)[:, [0, 1, 2, 3, 0, 1]])
        dictionary.W_enc.mul_(torch.tensor([1.0, 100.0, 2.0, 3.0, 100.0, 6.0]) / dictionary.W_enc.norm(dim=0))
        dictionary.b_enc.fill_(-0.5)
    return dictionary


@pytest.fixture
def optimizer(dictionary):
    """Adam in the middle of a run: no moment is 0."""
    optimizer = build_optimizer(dictionary, OptimizerConfig())
    for parameter in dictionary.parameters():
        for moment in MOMENTS:
            optimizer.state[parameter][moment].fill_(5.0)
    return optimizer


def inputs(num_batches=3, batch_size=4):
    data = torch.randn(num_batches, batch_size, 4, generator=torch.Generator().manual_seed(3))
    return InputSource(lambda number: (data[number], None), batch_size), data.flatten(0, 1)


def test_the_schedule_of_the_paper_is_a_special_case():
    config = ResamplingConfig(at_fractions=(0.025, 0.05, 0.075, 0.1), silent_fraction=0.0125)
    assert config.steps(1_000_000) == {25_000, 50_000, 75_000, 100_000}
    assert config.silent_steps(1_000_000) == 12_500


def test_the_default_silence_is_half_of_the_default_interval():
    config = ResamplingConfig()
    assert config.steps(1000) == {100, 200, 300, 400}
    assert config.silent_steps(1000) == 50


def test_nothing_is_resampled_before_the_first_or_after_the_last_step():
    assert ResamplingConfig(at_fractions=(0.0, 0.5, 1.0)).steps(10) == {5}


def test_probabilities_are_proportional_to_the_squared_loss():
    losses = torch.tensor([1.0, 2.0, 0.0, 3.0])
    assert sampling_probabilities(losses).tolist() == pytest.approx([1 / 14, 4 / 14, 0, 9 / 14])


def test_without_any_loss_all_inputs_are_alike():
    assert sampling_probabilities(torch.zeros(4)).tolist() == [0.25] * 4


def test_inputs_are_drawn_as_often_as_their_probabilities_say():
    probabilities = torch.tensor([0.1, 0.2, 0.0, 0.7], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([draw_inputs(probabilities, 1, generator) for _ in range(4000)])
    assert (torch.bincount(drawn, minlength=4) / 4000 - probabilities).abs().max() < 0.03


def test_no_input_is_drawn_twice_while_there_are_enough():
    generator = torch.Generator().manual_seed(0)
    assert sorted(draw_inputs(torch.full((5,), 0.2), 5, generator).tolist()) == [0, 1, 2, 3, 4]
    assert len(draw_inputs(torch.full((5,), 0.2), 9, generator)) == 9


def test_a_dead_feature_is_pointed_at_its_input(dictionary):
    before = {name: parameter.clone() for name, parameter in dictionary.named_parameters()}
    vectors = torch.tensor([[3.0, 0.0, 4.0, 0.0], [0.0, 0.0, 0.0, -2.0]])
    replace_features(dictionary, DEAD, vectors, new_encoder_norm(dictionary, DEAD))

    directions = torch.tensor([[0.6, 0.0, 0.8, 0.0], [0.0, 0.0, 0.0, -1.0]])
    assert torch.allclose(dictionary.W_dec[DEAD], directions)
    assert torch.allclose(dictionary.W_enc[:, DEAD], 0.2 * 3.0 * directions.T)
    assert dictionary.b_enc[DEAD].tolist() == [0.0, 0.0]

    assert torch.equal(dictionary.W_dec[~DEAD], before["W_dec"][~DEAD])
    assert torch.equal(dictionary.W_enc[:, ~DEAD], before["W_enc"][:, ~DEAD])
    assert torch.equal(dictionary.b_enc[~DEAD], before["b_enc"][~DEAD])
    assert torch.equal(dictionary.b_dec, before["b_dec"])


def test_where_every_feature_is_dead_the_norm_is_taken_over_all(dictionary):
    mean_norm = dictionary.W_enc.norm(dim=0).mean().item()
    dead = torch.ones(6, dtype=torch.bool)
    replace_features(dictionary, dead, torch.eye(6, 4) + 1, new_encoder_norm(dictionary, dead))
    assert dictionary.W_enc.norm(dim=0).tolist() == pytest.approx([0.2 * mean_norm] * 6)


def test_resampling_takes_inputs_of_the_source_and_forgets_the_moments_of_what_it_changed(dictionary, optimizer):
    source, vectors = inputs()
    changed = resample(dictionary, optimizer, DEAD, source, [0, 1, 2], torch.Generator().manual_seed(0))
    assert changed.tolist() == [1, 4]

    units = vectors / vectors.norm(dim=1, keepdim=True)
    similarity = dictionary.W_dec[DEAD] @ units.T
    assert similarity.max(dim=1).values.tolist() == pytest.approx([1.0, 1.0])
    assert similarity.argmax(dim=1).unique().numel() == 2

    kept = [5.0, 0.0, 5.0, 5.0, 0.0, 5.0]
    for moment in MOMENTS:
        assert optimizer.state[dictionary.W_enc][moment].tolist() == [kept] * 4
        assert optimizer.state[dictionary.b_enc][moment].tolist() == kept
        assert optimizer.state[dictionary.W_dec][moment].tolist() == [[element] * 4 for element in kept]
        assert optimizer.state[dictionary.b_dec][moment].tolist() == [5.0] * 4


def test_inputs_that_are_badly_reconstructed_are_preferred(dictionary, optimizer):
    data = torch.full((1, 50, 4), 1e-3)
    data[0, 17] = torch.tensor([0.0, -50.0, 0.0, 0.0])  # no feature points there
    resample(
        dictionary,
        optimizer,
        torch.tensor([False] * 5 + [True]),
        InputSource(lambda number: (data[number], None), 50),
        [0],
        torch.Generator().manual_seed(0),
    )
    assert torch.allclose(dictionary.W_dec[5], torch.tensor([0.0, -1.0, 0.0, 0.0]))


def test_without_dead_features_nothing_is_read_or_changed(dictionary, optimizer):
    def unread(number):
        raise AssertionError("no batch is needed")

    assert len(resample(dictionary, optimizer, torch.zeros(6, dtype=torch.bool), InputSource(unread, 4), [0, 1, 2], torch.Generator())) == 0


def test_the_choice_of_batches_depends_on_seed_and_step_alone():
    source, _ = inputs(num_batches=100)
    chosen = source.choose(20, 100, seeded_generator(1, 50))
    assert len(set(chosen)) == 5
    assert chosen == source.choose(20, 100, seeded_generator(1, 50))
    assert chosen != source.choose(20, 100, seeded_generator(1, 51))
    assert chosen != source.choose(20, 100, seeded_generator(2, 50))


def test_only_batches_that_the_run_has_seen_are_chosen():
    source, _ = inputs(num_batches=100)
    assert source.choose(400, 7, seeded_generator(1, 7)) == [0, 1, 2, 3, 4, 5, 6]


def test_a_transcoder_decodes_the_target_of_the_input_that_it_encodes():
    dictionary = build_dictionary(ReluConfig(d_sae=6), 4, 3)
    vectors, targets = torch.tensor([[0.0, 2.0, 0.0, 0.0]] * 2), torch.tensor([[0.0, 0.0, 5.0]] * 2)
    replace_features(dictionary, DEAD, vectors, torch.tensor(0.5), targets)
    assert dictionary.W_enc[:, DEAD].T.tolist() == [[0.0, 0.5, 0.0, 0.0]] * 2
    assert dictionary.W_dec[DEAD].tolist() == [[0.0, 0.0, 1.0]] * 2
