"""Which examples are chosen, and that the same ones are chosen every time."""

import numpy as np
import pytest

import tests.sae.interpretation.planted_features as planted
from sae.interpretation.examples.choice import choose, intervals_of, num_distinct
from sae.interpretation.index import index_texts
from sae.interpretation.records import KINDS

MIX = planted.BUDGET.scoring_examples


@pytest.fixture(scope="module")
def pool():
    return index_texts(planted.passages("train", 256, seed=0), planted.passages("held_out", 64, seed=1), planted.BUDGET).explanation


def of_kind(chosen, kind):
    return chosen.positions[chosen.kinds == KINDS.index(kind)]


@pytest.fixture(scope="module")
def spread():
    """A feature that fires on two tokens, its activations spread evenly over (0, 1]."""
    text = planted.passages("train", 256, seed=0)
    fires = np.isin(text.tokens, [planted.TOKEN, planted.FIRST])
    return planted.firings(text, np.where(fires, np.random.default_rng(5).random(text.tokens.shape), 0))


def test_the_papers_mix_of_sixty_examples(pool, spread):
    chosen = choose(pool, spread, 1.0, None, MIX, seed=3)
    assert [len(of_kind(chosen, kind)) for kind in KINDS] == [6, 24, 10, 20, 0]
    assert MIX.window == 9


def test_the_top_examples_are_the_strongest_of_their_sequences(pool, spread):
    positions, values = spread
    top = of_kind(choose(pool, spread, 1.0, None, MIX, seed=3), "top")
    strongest = positions[np.argsort(-values)]
    length = pool.passages.length
    expected = list(dict.fromkeys((strongest // length).tolist()))[:6]
    assert (top // length).tolist() == expected


def test_two_examples_come_from_every_interval(pool, spread):
    chosen = choose(pool, spread, 1.0, None, MIX, seed=3)
    assert np.bincount(chosen.intervals[chosen.kinds == KINDS.index("interval")]).tolist() == [2] * 12


def test_intervals_are_even_and_closed_above():
    values = np.array([0, 1e-6, 1 / 12, 1 / 12 + 1e-6, 0.5, 1, 1.7])
    assert intervals_of(values, 1.0).tolist() == [-1, 0, 0, 1, 5, 11, 11]


def test_out_of_context_examples_hold_the_top_tokens_in_other_places(pool, spread):
    chosen = choose(pool, spread, 1.0, None, MIX, seed=3)
    tokens = pool.passages.tokens.reshape(-1)
    top, elsewhere = of_kind(chosen, "top"), of_kind(chosen, "out_of_context")
    assert set(tokens[elsewhere]) <= set(tokens[top])
    assert not set(elsewhere) & set(top)


def test_hard_negatives_are_neighbours_places_at_which_the_feature_is_silent(pool, spread):
    tokens, length = pool.passages.tokens.reshape(-1), pool.passages.length
    near = np.flatnonzero(np.isin(tokens, [planted.SECOND, planted.TOKEN]) & pool.passages.readable)
    hard = of_kind(choose(pool, spread, 1.0, None, MIX, seed=3, near=near), "hard_negative")
    assert len(hard) == MIX.hard_negatives
    assert set(tokens[hard]) == {planted.SECOND}
    windows = pool.passages.windows(hard, MIX)
    assert not np.isin(windows, spread[0]).any()
    assert (windows // length == hard[:, None] // length).all()


def test_no_two_examples_have_the_same_surroundings(pool, spread):
    chosen = choose(pool, spread, 1.0, None, MIX, seed=3)
    assert len(set(pool.digests[chosen.positions])) == len(chosen.positions)


def test_repeated_text_gives_one_example():
    text = planted.passages("train", 64, seed=0)
    text.tokens[:] = text.tokens[0]
    pool = index_texts(text, planted.passages("held_out", 64, seed=1), planted.BUDGET).explanation
    assert (
        num_distinct(pool, planted.firings(text, np.ones(text.tokens.shape))[0]) == planted.LENGTH - MIX.window
    )  # one for each place that a window can begin at


def test_windows_stay_within_the_sequence_and_past_its_bos(pool):
    length = pool.passages.length
    windows = pool.passages.windows(np.array([1, length - 1, length + 1]), MIX)
    assert windows[:, 0].tolist() == [1, length - 9, length + 1]
    assert windows[:, -1].tolist() == [9, length - 1, length + 9]


def test_the_choice_depends_on_the_seed_alone(pool, spread):
    first, again, other = (choose(pool, spread, 1.0, None, MIX, seed=seed).positions.tolist() for seed in (3, 3, 4))
    assert first == again != other


def test_a_silent_feature_has_random_examples_only(pool):
    chosen = choose(pool, (np.empty(0, np.int64), np.empty(0, np.float32)), 1.0, [], MIX, seed=0)
    assert [len(of_kind(chosen, kind)) for kind in KINDS] == [0, 0, 10, 0, 0]
    assert num_distinct(pool, np.empty(0, np.int64)) == 0
    assert set(chosen.intervals) == {-1}
