"""Ratings: appended one object each, never changed, the last of a card counting."""

import threading

import pytest
from pydantic import ValidationError

from sae.errors import InputError
from sae.rating.records import MAX_RATERS, Rating, Ratings, latest, raters_of
from sae.rating.rubric import MOST, PARTS, total
from sae.storage import Place, sealed, to_json

GRADES = {"confidence": 2, "activations": 4, "logits": 3, "specificity": 1}


def rating(card=0, text="the word “of”", **grades):
    return Rating(card=card, interpretation=text, **(GRADES | grades))


class TestRubric:
    def test_has_the_four_parts_of_the_paper_and_fourteen_points(self):
        assert {part.key: part.most for part in PARTS} == {"confidence": 3, "activations": 5, "logits": 3, "specificity": 3}
        assert MOST == 14

    def test_points_are_the_sum_of_the_grades(self):
        assert total(GRADES) == 2 + 4 + 3 + 1

    def test_without_effects_on_next_tokens_the_other_parts_are_stretched(self):
        assert total(GRADES | {"logits": None}) == pytest.approx(14 * 7 / 11)


class TestRating:
    @pytest.mark.parametrize(
        "wrong",
        [{"confidence": 4}, {"activations": 6}, {"logits": 4}, {"specificity": -1}, {"confidence": True}, {"confidence": "3"}, {"card": -1},
         {"seconds": float("inf")}, {"seconds": -1.0}, {"text": "x" * 2001}, {"confidence": 1.5}],
    )  # fmt: skip
    def test_grades_beyond_the_rubric_are_refused(self, wrong):
        with pytest.raises(ValidationError):
            rating(**wrong)

    def test_an_unknown_field_is_refused(self):
        with pytest.raises(ValidationError, match="extra"):
            Rating.model_validate_json(rating().model_dump_json()[:-1] + ',"rater":"someone"}')


class TestRatings:
    def test_are_kept_in_their_order_and_the_last_of_a_card_counts(self, run, deck):
        ratings = Ratings(run, deck)
        for card, text in ((0, "first thought"), (1, "other"), (0, "second thought")):
            ratings.add("anna", rating(card, text))
        assert run.list("ratings/anna") == [f"ratings/anna/{number:06d}.json" for number in range(3)]
        assert {card: each.interpretation for card, each in latest(ratings.of("anna")).items()} == {0: "second thought", 1: "other"}

    def test_survive_a_restart(self, run, deck):
        Ratings(run, deck).add("anna", rating(0))
        again = Ratings(run, deck)
        again.add("anna", rating(1))
        assert [each.card for each in again.of("anna")] == [0, 1]

    def test_raters_are_apart(self, run, deck):
        ratings = Ratings(run, deck)
        ratings.add("anna", rating(0))
        ratings.add("ben", rating(5))
        assert raters_of(run) == ["anna", "ben"]
        assert [each.card for each in ratings.of("ben")] == [5]

    def test_none_is_lost_when_two_servers_write_at_once(self, run, deck):
        def give(first):
            mine = Ratings(run, deck)
            for card in range(first, 16, 2):
                mine.add("anna", rating(card))

        threads = [threading.Thread(target=give, args=(first,)) for first in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert sorted(each.card for each in Ratings(run, deck).of("anna")) == list(range(16))

    def test_what_the_deck_does_not_know_is_refused(self, run, deck):
        ratings = Ratings(run, deck)
        with pytest.raises(InputError, match="there is no card 16"):
            ratings.add("anna", rating(16))
        with pytest.raises(InputError, match="shows effects on next tokens"):
            ratings.add("anna", rating(0, logits=None))
        assert raters_of(run) == []

    @pytest.mark.parametrize("name", ["", "Anna", "../anna", "a/b", "a" * 41, "-a", "ä", "a\n", "deck.json"])
    def test_a_raters_name_is_no_path(self, run, deck, name):
        with pytest.raises(InputError, match="rater's name"):
            Ratings(run, deck).add(name, rating())

    def test_nobody_fills_the_disk(self, run, deck, monkeypatch):
        monkeypatch.setattr("sae.rating.records.MAX_ROUNDS", 1)
        ratings = Ratings(run, deck)
        for _ in range(16):
            ratings.add("anna", rating())
        with pytest.raises(InputError, match="no more are kept"):
            ratings.add("anna", rating())
        for number in range(MAX_RATERS - 1):
            run.put(f"ratings/r{number}/000000.json", b"{}")
        with pytest.raises(InputError, match="no more are admitted"):
            ratings.add("one-more", rating())

    @pytest.mark.parametrize(
        ("data", "reason"),
        [(b"{", "is not valid JSON"), (b'{"card": 0}', "has no digest"), (to_json(sealed({"card": 0})), "interpretation is missing")],
    )
    def test_a_damaged_rating_is_named(self, run, deck, data, reason):
        run.put("ratings/anna/000000.json", data)
        with pytest.raises(InputError, match=rf"anna/000000\.json is not a rating: .*{reason}"):
            Ratings(run, deck).of("anna")

    def test_a_rating_of_another_deck_is_not_taken_for_one_of_this(self, run, deck):
        kept = Ratings(run, deck).add("anna", rating())
        run.put_sealed("ratings/anna/000000.json", kept.model_dump() | {"deck": "f" * 64})
        with pytest.raises(InputError, match="rates a card of another deck"):
            Ratings(run, deck).of("anna")

    def test_a_rating_that_was_changed_or_is_another_rater_s_is_refused(self, run, deck):
        kept = Ratings(run, deck).add("anna", rating()).model_dump()
        run.put_json("ratings/anna/000000.json", run.get_json("ratings/anna/000000.json") | {"confidence": 1})
        with pytest.raises(InputError, match=r"anna/000000\.json is not a rating: .* was changed after it was written"):
            Ratings(run, deck).of("anna")
        run.put_sealed("ratings/ben/000000.json", kept)
        with pytest.raises(InputError, match=r"ben/000000\.json was given by 'anna'"):
            Ratings(run, deck).of("ben")

    def test_an_object_store_keeps_them_too(self, bucket, run, deck):
        place = Place(f"{bucket}/rated")
        ratings = Ratings(place, deck)
        for card in (0, 1):
            ratings.add("anna", rating(card))
        assert [each.card for each in Ratings(place, deck).of("anna")] == [0, 1]
