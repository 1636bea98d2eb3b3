"""The LLM-free explanation: what it learns of features whose meaning is known, and how it predicts."""

import json

import numpy as np
import pytest

import tests.sae.interpretation.planted_features as planted
from sae.interpretation.patterns.learning import learn
from sae.interpretation.patterns.token_graph import IGNORED, Pattern, TokenGraph
from sae.interpretation.patterns.wording import explain, patterns_json
from sae.interpretation.text.contexts import Contexts
from sae.subject.tokens_shown import TokenTexts


@pytest.fixture(scope="module")
def text():
    return planted.passages("train", 256, seed=0)


@pytest.fixture(scope="module")
def contexts(text):
    return Contexts(text, max_context=3)


def test_contexts_count_every_run_of_tokens(text, contexts):
    pairs = contexts.orders[1]
    [single] = np.flatnonzero(contexts.orders[0].first_tokens == planted.SECOND)
    [pair] = np.flatnonzero((pairs.parents == single) & (pairs.first_tokens == planted.FIRST))
    occurs = (text.tokens[:, 1:] == planted.SECOND) & (text.tokens[:, :-1] == planted.FIRST)
    assert pairs.counts[pair].sum() == occurs.sum()
    assert set(np.flatnonzero(pairs.ids == pair)) == set(np.flatnonzero(np.pad(occurs, ((0, 0), (1, 0)))))


def test_a_feature_of_one_token_becomes_one_pattern_with_its_mean(text, contexts):
    positions, values = planted.one_token(text)
    graph = learn(contexts, positions, values, max_patterns=64)
    assert [pattern.tokens for pattern in graph.patterns] == [(planted.TOKEN,)]
    assert graph.patterns[0].mean == pytest.approx(values.mean(), rel=0.01)
    assert graph.default < 1e-4


def test_a_feature_of_a_pair_is_not_expected_at_its_second_token_alone(text, contexts):
    graph = learn(contexts, *planted.bigram(text), max_patterns=64)
    predicted = graph.predict(np.array([[5, planted.FIRST, planted.SECOND], [5, 9, planted.SECOND], [5, 9, 10]]))
    assert predicted[0, 2] == pytest.approx(3, rel=0.05)
    assert predicted[1:].max() < 0.1
    assert predicted[0, :2].max() < 0.1


def test_noise_has_no_pattern_and_a_constant_prediction(text, contexts):
    graph = learn(contexts, *planted.noise(text), max_patterns=64)
    assert graph.patterns == []
    assert np.ptp(graph.predict(text.tokens)) == 0


def test_the_number_of_patterns_is_bounded_and_every_parent_is_kept(text, contexts):
    strength = np.random.default_rng(0).random(planted.VOCABULARY) * (text.tokens != planted.FIRST)[:, :1]
    follows = np.roll(text.tokens, 1, axis=1) == planted.FIRST
    firings = planted.firings(text, strength[0][text.tokens] * (1 + 3 * follows))
    graph = learn(contexts, *firings, max_patterns=10)
    known = {pattern.tokens for pattern in graph.patterns}
    assert len(known) == 10
    assert all(len(tokens) == 1 or tokens[1:] in known for tokens in known)


def test_prediction_is_that_of_the_longest_matching_pattern_within_the_row():
    graph = TokenGraph(0.5, [Pattern((3,), 1.0, 9, 1.0), Pattern((2, 3), 2.0, 5, 1.0), Pattern((1, 2, 3), 4.0, 4, 1.0)])
    predicted = graph.predict(np.array([[1, 2, 3, 3], [2, 3, 2, 3], [3, 9, 1, 2]]))
    np.testing.assert_array_equal(predicted, [[0.5, 0.5, 4, 1], [0.5, 2, 0.5, 2], [1, 0.5, 0.5, 0.5]])


def test_prediction_without_patterns_is_the_default():
    np.testing.assert_array_equal(TokenGraph(0.25, []).predict(np.array([[1, 2]])), [[0.25, 0.25]])


def test_the_sentence_names_tokens_contexts_and_activations():
    graph = TokenGraph(0.0, [Pattern((3,), 0.1, 9, 1.0), Pattern((2, 3), 2.0, 5, 5.0), Pattern((4,), 1.5, 4, 2.0)])
    assert explain(graph, planted.TEXTS) == "Fires on `<3>` after `<2>` (2.0); `<4>` (1.5)."
    assert explain(TokenGraph(0.4, []), planted.TEXTS) == "No token pattern predicts it; it fires with mean 0.4 anywhere."
    assert '"texts": ["<2>", "<3>"], "mean": 2.0, "count": 5' in patterns_json(graph, planted.TEXTS)


CHARACTERS = TokenTexts([b"\xe6", b"\x9c", b"\xba", b" a"], ())


def chain(*tokens, mean):
    """The graph of one pattern: it holds every end of it, which predict nothing."""
    ends = [Pattern(tokens[start:], 0.0, 9, 0.0) for start in range(len(tokens) - 1, 0, -1)]
    return TokenGraph(0.0, [*ends, Pattern(tokens, mean, 9, 5.0)])


def test_tokens_of_a_pattern_are_put_together_between_those_it_ignores():
    graph = chain(0, 1, 2, IGNORED, 3, mean=4.0)
    assert explain(graph, CHARACTERS) == "Fires on ` a` after `机…` (4.0)."
    assert json.loads(patterns_json(graph, CHARACTERS))["patterns"][0]["texts"] == ["", "", "机", "…", " a"]


def test_a_token_that_completes_a_character_is_named_by_the_character():
    assert explain(chain(0, 1, 2, mean=4.0), CHARACTERS) == "Fires on `机` (4.0)."
    graph = TokenGraph(0.0, [Pattern((2,), 1.0, 9, 5.0), Pattern((1, 2), 1.0, 9, 0.0), Pattern((3, 2), 2.0, 9, 1.0), Pattern((0, 1, 2), 4.0, 9, 5.0)])
    assert explain(graph, CHARACTERS) == "Fires on `⟦0xba⟧` (1.0), more after ` a` (2.0), in `机` (4.0)."
