"""Scores of explanations in words: the formulas, restated, and what is left out of them."""

import re

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import stats

from sae.errors import FailureError
from sae.interpretation.language_model.config import LanguageModelConfig
from sae.interpretation.language_model.material import Example, FeatureMaterial, Vocabulary, check_apart, sampled_features
from sae.interpretation.language_model.questions import NO_PATH, TOO_FEW, Item, items_of
from sae.interpretation.language_model.scores import balanced_accuracy, confusion, f1, importance_weights, scores_of, weighted_spearman

WORDS = [f"w{number}" for number in range(200)]


def example(number, kind="top", activations=(0, 0, 3, 0), interval=11, split="held_out"):
    activations = np.array(activations, float)
    return Example((split, number, 0, 2), kind, interval if activations.max() else -1, ["a", "b", "c", "d"], activations, np.ones(4, bool))


def material(scored, **changes):
    values = {
        "source": "topk", "feature": 3, "maximum": 3.0, "density": 0.1, "interval_probabilities": np.full(12, 1 / 12), "not_scored_reason": None,
        "single_token": False, "shown": [], "scored": scored, "raised": WORDS[:10], "further": list(range(10, 60)),
    }  # fmt: skip
    return FeatureMaterial(**(values | changes))


def labelled(truth, said):
    return [(Item("", [label]), [answer]) for label, answer in zip(truth, said, strict=True)]


@pytest.fixture
def digits():
    draw = np.random.default_rng(0)
    true = draw.integers(0, 10, 300).astype(float)
    return np.clip(true + draw.integers(-3, 4, 300), 0, 9), true


def test_equal_weights_give_spearman(digits):
    assert weighted_spearman(*digits, np.full(300, 0.3)) == pytest.approx(stats.spearmanr(*digits).statistic)


def test_a_weight_of_two_is_a_row_twice(digits):
    predicted, true = digits
    weights = np.random.default_rng(1).integers(0, 4, 300)
    repeated = [np.repeat(values, weights) for values in digits]
    assert weighted_spearman(predicted, true, weights.astype(float)) == pytest.approx(stats.spearmanr(*repeated).statistic)


def test_constant_predictions_and_no_weight_score_nothing(digits):
    _, true = digits
    assert weighted_spearman(np.full(300, 4.0), true, np.ones(300)) == 0
    assert weighted_spearman(*digits, np.zeros(300)) == 0


def test_importance_weighs_random_and_interval_examples_only():
    kinds = ["random", "interval", "top", "out_of_context"]
    read = [(Item("", [0, 0], example(number, kind, interval=4)), [0, 0]) for number, kind in enumerate(kinds)]
    probabilities = np.zeros(12)
    probabilities[4] = 0.25
    weights = importance_weights(read, material([], density=0.1, interval_probabilities=probabilities))
    assert weights.tolist() == pytest.approx([1, 1, 0.1 * 0.25, 0.1 * 0.25, 0, 0, 0, 0])


def test_accuracy_is_balanced_and_f1_is_that_of_firing():
    read = labelled([1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 1, 0])
    counts = confusion(read)
    assert counts == {"true_positive": 3, "false_positive": 1, "true_negative": 1, "false_negative": 1}
    assert balanced_accuracy(counts) == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert f1(counts) == pytest.approx(2 * 0.75 * 0.75 / (0.75 + 0.75))
    assert balanced_accuracy(confusion(labelled([1, 1, 0], [1, 1, 1]))) == 0.5
    assert balanced_accuracy(confusion(labelled([1, 1], [1, 0]))) is None


def test_hard_negatives_have_a_score_of_their_own():
    hard = [Item("", [0], example(number, "hard_negative", (0, 0, 0, 0))) for number in range(4)]
    items = [*(item for item, _ in labelled([1, 1, 0, 0], [0] * 4)), *hard]
    answers = [[1], [1], [0], [0], [1], [1], [1], [0]]
    found = scores_of("detection", items, answers, material([]))
    assert found["detection_accuracy"] == found["detection_f1"] == 1
    assert found["detection_hard_accuracy"] == pytest.approx((1 + 1 / 4) / 2)
    assert scores_of("detection", items[:4], answers[:4], material([]))["detection_hard_accuracy"] is None


def test_what_was_not_read_is_left_out_and_too_little_is_no_score():
    items = [Item("", [1]), Item("", [0]), Item("", [1]), Item("", [0])]
    assert scores_of("detection", items, [[1], [0], None, None], material([]))["detection_accuracy"] == 1
    assert scores_of("detection", items, [[1], None, None, None], material([])) == {}


def test_simulation_counts_readable_tokens_only():
    shown = example(0)
    blind = Example(shown.id, "top", 11, shown.tokens, shown.activations, np.array([True, True, True, False]))
    read = [Item("", [0, 0, 9, 0], blind), Item("", [0, 3, 0, 0], example(1))]
    found = scores_of("simulation", read, [[0, 0, 9, 9], [0, 3, 0, 0]], material([]))
    assert found["simulation_spearman"] == found["simulation_pearson"] == pytest.approx(1)


def test_as_many_silent_as_firing_examples_are_asked_about():
    firing = [example(number) for number in range(9)]
    silent = [example(10 + number, "random", (0, 0, 0, 0)) for number in range(6)]
    vocabulary = Vocabulary(WORDS, {0})
    for scorer in ("detection", "fuzzing"):
        items = items_of(scorer, material([*firing, *silent]), vocabulary, seed=0)
        assert sorted(item.truth for item in items) == [[0]] * 6 + [[1]] * 6
        again = items_of(scorer, material([*firing, *silent]), vocabulary, seed=0)
        assert [item.line for item in items] == [item.line for item in again]
        assert len(items_of(scorer, material([*firing, *silent, example(30, "hard_negative", (0, 0, 0, 0))]), vocabulary, seed=0)) == 13
        assert items_of(scorer, material([*firing, *silent[:4], example(30, "hard_negative", (0, 0, 0, 0))]), vocabulary, seed=0) == TOO_FEW


def test_silent_examples_carry_as_many_marks_as_firing_ones_on_average():
    firing = [example(number, activations=(0, 3, 2.9, 0)) for number in range(5)] + [example(5 + number) for number in range(5)]
    silent = [example(20 + number, "random", (0, 0, 0, 0)) for number in range(10)]
    items = items_of("fuzzing", material([*firing, *silent]), Vocabulary(WORDS, {0}), seed=0)
    marked = {label: [len("".join(re.findall("<<(.*?)>>", item.line))) for item in items if item.truth == [label]] for label in (0, 1)}
    assert sorted(marked[1]) == [1] * 5 + [2] * 5
    assert marked[0] == [2] * 10  # the mean of 1.5, rounded up


def test_the_logit_test_asks_for_ranks_that_no_explainer_saw():
    items = items_of("logits", material([]), Vocabulary(WORDS, {0}), seed=0)
    likely = {item.line.strip('"') for item in items if item.truth == [1]}
    others = {item.line.strip('"') for item in items if item.truth == [0]}
    assert likely == {f"w{number}" for number in range(10, 60)}
    assert len(others) == 50
    assert not others & {f"w{number}" for number in range(60)}
    assert items_of("logits", material([], further=None), Vocabulary(WORDS, {0}), seed=0) == NO_PATH


def test_an_example_that_explains_may_not_score():
    shown = [example(number, split="train") for number in range(3)]
    check_apart(shown, [example(0)], "feature 3")
    with pytest.raises(FailureError, match=r"1 sequences .* serve explaining and scoring feature 3"):
        check_apart(shown, [example(7), example(2, split="train")], "feature 3")


def test_a_larger_sample_begins_with_the_smaller():
    features = np.arange(0, 1000, 3).astype(np.uint32)
    few, many = (sampled_features(features, wanted, seed=5) for wanted in (10, 50))
    assert many[:10] == few
    assert set(few) <= set(features.tolist())
    assert few != sampled_features(features, 10, seed=6)
    assert len(sampled_features(features, 10_000, seed=5)) == len(features)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_cost": 1.0}, "max_cost needs prices"),
        ({"base_url": "http://me:secret@host/v1"}, "base_url holds credentials"),
        ({"scorers": ["detection", "detection"]}, "named twice"),
        ({"explainers": []}, "explainers"),
        ({"api_key": "sk-1"}, "api_key"),
    ],
)
def test_settings_that_cannot_be_are_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        LanguageModelConfig(model="m", **values)
