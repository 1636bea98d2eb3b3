"""People against automatic scores, on planted ratings."""

import numpy as np
import pytest

from sae.errors import InputError
from sae.rating.agreement import ALL, agreement_of, compare, correlation
from sae.rating.deck import Deck, DeckRecord
from sae.rating.records import KeptRating, Rating, Ratings

PARTS = {"confidence": 3, "activations": 5, "logits": 3, "specificity": 3}


def planted_deck(sources=("good", "poor"), features=20):
    cards = [
        {"source": source, "feature": feature, "shown": {"x": [], "u": [["a", 1.0]], "b": []}} for feature in range(features) for source in sources
    ]
    value = {"config": {"features_per_source": features, "seed": 0}, "tokens": [], "sources": dict.fromkeys(sources, "0"), "cards": cards}
    return Deck(b"planted", DeckRecord.parse(value))


def points(card, of_14, rater="anna"):
    """A rating of so many points, filled from the first part on."""
    grades, left = {}, of_14
    for part, most in PARTS.items():
        grades[part] = min(most, left)
        left -= grades[part]
    return KeptRating(card=card, interpretation="planted", rater=rater, deck="d", written="now", **grades)


def given(card, of_14):
    """The same as it is sent."""
    return Rating(**points(card, of_14).model_dump(exclude={"rater", "deck", "written"}))


def test_a_score_that_orders_features_as_people_do_correlates_perfectly():
    deck = planted_deck()
    given = {"anna": {card: points(card, card % 15) for card in range(40)}}
    cubed = {deck.feature(card): float(card % 15) ** 3 for card in range(40)}
    found = {each.scope: each for each in compare(deck, given, {"cubed": cubed}).correlations}
    assert found.keys() == {ALL, "good", "poor"}
    assert found[ALL].num_pairs == 40
    assert found["good"].num_pairs == 20
    assert found[ALL].spearman == pytest.approx(1)
    assert found[ALL].spearman_interval == pytest.approx((1, 1))
    assert found[ALL].pearson == pytest.approx(np.corrcoef(np.arange(40) % 15, (np.arange(40) % 15) ** 3)[0, 1])
    assert found[ALL].pearson_interval[0] < found[ALL].pearson < found[ALL].pearson_interval[1] < 1


def test_a_score_that_has_nothing_to_do_with_people_has_an_interval_around_zero():
    deck, draw = planted_deck(features=100), np.random.default_rng(0)
    given = {"anna": {card: points(card, int(draw.integers(15))) for card in range(200)}}
    found = compare(deck, given, {"noise": {deck.feature(card): draw.normal() for card in range(200)}}).correlations[0]
    assert found.spearman_interval[0] < 0 < found.spearman_interval[1]
    assert found.spearman_interval[1] - found.spearman_interval[0] == pytest.approx(4 / np.sqrt(200), rel=0.2)  # 2 · 1.96 / sqrt(n)


def test_features_without_a_score_are_no_pairs_but_count_in_the_mean():
    deck = planted_deck(features=5)
    given = {"anna": {card: points(card, 14 if card % 2 == 0 else 0) for card in range(10)}}
    found = compare(deck, given, {"score": {deck.feature(card): 0.5 for card in range(4)}})
    assert [each.num_pairs for each in found.correlations] == [4, 2, 2]
    assert found.correlations[1].pearson is None  # two pairs say nothing
    assert {each.source: (each.num_features, each.mean, each.interval) for each in found.means} == {"good": (5, 14, (14, 14)), "poor": (5, 0, (0, 0))}


def test_a_feature_counts_once_with_the_mean_of_its_raters():
    deck = planted_deck(sources=("good",), features=4)
    given = {"anna": {card: points(card, 10) for card in range(4)}, "ben": {card: points(card, 4, "ben") for card in range(2)}}
    (mean,) = compare(deck, given, {}).means
    assert mean.points == (7, 7, 10, 10)
    assert mean.mean == 8.5


def test_two_raters_are_compared_on_what_both_rated():
    deck = planted_deck(features=10)
    given = {
        "anna": {card: points(card, card % 15) for card in range(12)},
        "ben": {card: points(card, card % 15 + 2, "ben") for card in range(4, 12)},
    }
    (pair,) = compare(deck, given, {}).pairs
    assert (pair.raters, pair.correlation.num_pairs, pair.mean_difference) == (("anna", "ben"), 8, 2)
    assert pair.correlation.pearson == pytest.approx(1)


def test_the_interval_is_the_percentile_bootstrap_over_pairs():
    draw = np.random.default_rng(1)
    one = draw.normal(size=30)
    other = one + draw.normal(size=30)
    found = correlation("m", "s", one, other)
    again = [np.corrcoef(one[rows], other[rows])[0, 1] for rows in draw.integers(0, 30, (4000, 30))]
    assert found.pearson_interval == pytest.approx(np.quantile(again, [0.025, 0.975]), abs=0.04)
    assert correlation("m", "s", one, other) == found


def test_a_run_nobody_rated_has_no_agreement(run, deck):
    assert agreement_of(run) is None


def test_a_run_is_compared_with_its_explanation_scores(run, deck):
    for card in range(16):
        Ratings(run, deck).add("anna", given(card, card % 15))
    found = agreement_of(run)
    assert found.raters == {"anna": 16}
    assert [each.num_pairs for each in found.correlations] == [16, 4, 4, 4, 4]


def test_ratings_of_an_interpretation_that_was_made_anew_are_refused(run, deck):
    Ratings(run, deck).add("anna", given(0, 3))
    run.put("interpretation/topk/features.parquet", run.get("interpretation/relu/features.parquet"))
    with pytest.raises(InputError, match="topk was interpreted anew after its cards were drawn"):
        agreement_of(run)
