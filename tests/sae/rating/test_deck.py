"""The cards: drawn by a seed, mixed, and silent about what they are."""

import json

import pytest
from altered import GONE, alterations
from planted_run import VOCABULARY

from sae.errors import CorruptObjectError, InputError, PlanError
from sae.rating.deck import DeckConfig, make_deck, read_deck
from sae.storage import Place

SOURCES = {"relu", "topk", "neurons", "random_directions"}


def test_every_source_has_as_many_cards_each_of_another_feature(deck):
    features = [deck.feature(card) for card in range(len(deck.cards))]
    assert len(set(features)) == len(features) == 16
    assert {source: sum(each[0] == source for each in features) for source in SOURCES} == dict.fromkeys(SOURCES, 4)


def test_whoever_stops_early_has_rated_as_many_of_each(deck):
    order = [deck.feature(card)[0] for card in range(16)]
    rounds = [order[start : start + 4] for start in range(0, 16, 4)]
    assert all(set(names) == SOURCES for names in rounds)
    assert len({tuple(names) for names in rounds}) > 1  # no order a rater could learn


def test_the_seed_decides(run, deck):
    def drawn(seed):
        run.delete("ratings/deck.json")
        return [(card["source"], card["feature"]) for card in make_deck(run, VOCABULARY, DeckConfig(features_per_source=4, seed=seed)).cards]

    mine = [deck.feature(card) for card in range(16)]
    assert drawn(3) == mine != drawn(4)


def test_a_card_tells_nothing_of_source_feature_explanation_or_score(deck):
    for card in range(len(deck.cards)):
        shown = deck.shown(card)
        assert shown.keys() == {"x", "u", "b", "tokens"}
        assert {key for example in shown["x"] for key in example} == {"k", "c", "t", "a"}
        text = json.dumps(shown)
        assert not any(source in text for source in SOURCES)
        assert "fires on" not in text


def test_activations_and_effects_are_shares_since_units_would_tell_sources_apart(deck):
    shares = [share for card in range(16) for example in deck.shown(card)["x"] for share in example["a"][1::2]]
    assert max(shares) == 999
    effects = [effect for card in range(16) for side in ("u", "b") for _, effect in deck.shown(card)[side]]
    assert max(map(abs, effects)) == 1.0


def test_examples_are_those_that_explainers_see_and_none_the_score_was_computed_on(run, deck):
    assert all("predicted" not in example for card in deck.cards for example in card["shown"]["x"])
    kinds = [example["k"] for example in deck.shown(0)["x"]]
    assert kinds == [0] * 10 + [1] * 6


def test_the_deck_is_written_once(run, deck):
    assert read_deck(run).digest == deck.digest
    with pytest.raises(PlanError, match=r"is there already and differs"):
        make_deck(run, VOCABULARY, DeckConfig(features_per_source=4, seed=9))
    assert read_deck(run).digest == deck.digest


def test_a_run_without_interpretation_is_the_callers_mistake(tmp_path):
    with pytest.raises(InputError, match="`monosem interpret` comes first"):
        make_deck(Place(tmp_path), None, DeckConfig())


def test_a_damaged_deck_is_named(run, deck):
    whole = run.get_json("ratings/deck.json")
    run.put("ratings/deck.json", b'{"cards": []}')
    with pytest.raises(CorruptObjectError, match=r"deck\.json has no digest"):
        read_deck(run)
    for _, altered in alterations(whole, others=(GONE, None, 7), most=1):
        run.put_json("ratings/deck.json", altered)
        with pytest.raises(CorruptObjectError, match=r"deck\.json"):
            read_deck(run)
    run.put_sealed("ratings/deck.json", {"cards": []})
    with pytest.raises(InputError, match=r"deck\.json is not what this version writes: field config is missing.* or move .*ratings away"):
        read_deck(run)
