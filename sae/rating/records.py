"""Ratings as they are kept: one object each, written once, never changed.

`ratings/RATER/000017.json` is the rater's eighteenth: whoever grades a card again adds another, and the later one counts. An object for
each is what appending means in an object store as well as on a disk: it appears whole or not at all, and of two that were sent at
once none is lost. Fields: those of `Rating`, and `rater`, `deck` (digest of the deck), `written` (time of the server, ISO 8601).
"""

import re
from datetime import UTC, datetime

from pydantic import Field

from sae.config import Config
from sae.errors import CorruptObjectError, InputError
from sae.rating.deck import Deck
from sae.rating.rubric import total
from sae.records import as_record
from sae.storage import Place, parse_json, sealed, to_json, unsealed

RATER_NAME = r"[a-z0-9][a-z0-9_\-]{0,39}"  # the hyphen escaped as browsers ask
MAX_TEXT = 2000  # characters of an interpretation
MAX_ROUNDS = 10  # times a rater may grade each card, on average
MAX_RATERS = 200


class Rating(Config):
    """Rating of a card by a person. Grades are those of `sae.rating.rubric`."""

    card: int = Field(ge=0, strict=True, description="number of the card in the deck")
    interpretation: str = Field(max_length=MAX_TEXT, strict=True, description="what the feature stands for, in the rater's words")
    confidence: int = Field(ge=0, le=3, strict=True, description="how sure of it")
    activations: int = Field(ge=0, le=5, strict=True, description="how well the examples fit")
    logits: int | None = Field(ge=0, le=3, strict=True, description="how well the raised tokens fit; null where there are none")
    specificity: int = Field(ge=0, le=3, strict=True, description="how specific it is")
    seconds: float = Field(0.0, ge=0, le=86_400, allow_inf_nan=False, description="from showing the card to sending the rating")

    @property
    def total(self) -> float:
        """Points, 0 to 14."""
        return total(self.model_dump())


class KeptRating(Rating):
    """A rating with who gave it, of which deck, and when it was written."""

    rater: str = Field(pattern=f"^{RATER_NAME}$", description="name the rater chose")
    deck: str = Field(description="SHA-256 of the deck")
    written: str = Field(description="time of the server that wrote it")


class Ratings:
    """The ratings of one deck in a run directory; several servers may add at once."""

    def __init__(self, run: Place, deck: Deck) -> None:
        self.run, self.deck = run, deck
        self._next: dict[str, int] = {}

    def of(self, rater: str) -> list[KeptRating]:
        """All ratings of a rater in the order they were given.

        Raises:
            InputError: one of them is damaged, or of another deck.
        """
        keys = self.run.list(f"ratings/{rater}")
        return [_read(key, data, self.run, self.deck) for key, data in zip(keys, self.run.get_many((key, None, None) for key in keys), strict=True)]

    def add(self, rater: str, rating: Rating) -> KeptRating:
        """Keep a rating.

        Raises:
            InputError: no such card, a grade too many or too few, a rater's name that cannot be, too many ratings or raters.
        """
        if not re.fullmatch(RATER_NAME, rater, re.ASCII):
            raise InputError("a rater's name is 1 to 40 of a-z, 0-9, - and _, beginning with a letter or digit")
        self._check(rating)
        if rater not in self._next:
            self._admit(rater)
        kept = KeptRating(**rating.model_dump(), rater=rater, deck=self.deck.digest, written=datetime.now(UTC).isoformat(timespec="microseconds"))
        data = to_json(sealed(kept.model_dump()))
        while self._next[rater] < MAX_ROUNDS * len(self.deck.cards):
            written = self.run.put_new(f"ratings/{rater}/{self._next[rater]:06d}.json", data)
            self._next[rater] += 1
            if written:
                return kept
        raise InputError(f"{rater} has given {MAX_ROUNDS} ratings for each card: no more are kept")

    def _check(self, rating: Rating) -> None:
        if rating.card >= len(self.deck.cards):
            raise InputError(f"there is no card {rating.card}: the deck has {len(self.deck.cards)}")
        has_effects = bool(self.deck.cards[rating.card]["shown"]["u"])
        if has_effects != (rating.logits is not None):
            raise InputError(f"card {rating.card} shows {'' if has_effects else 'no '}effects on next tokens: `logits` is {rating.logits}")

    def _admit(self, rater: str) -> None:
        known = raters_of(self.run)
        if rater not in known and len(known) >= MAX_RATERS:
            raise InputError(f"{MAX_RATERS} raters have rated this run: no more are admitted")
        keys = self.run.list(f"ratings/{rater}")
        self._next[rater] = int(keys[-1].rsplit("/", 1)[1].partition(".")[0]) + 1 if keys else 0


def raters_of(run: Place) -> list[str]:
    """The names of all who rated, sorted."""
    return sorted({key.split("/")[1] for key in run.list("ratings") if key.count("/") == 2})


def latest(ratings: list[KeptRating]) -> dict[int, KeptRating]:
    """The rating that counts of each card: the last one given."""
    return {rating.card: rating for rating in ratings}


def _read(key: str, data: bytes, run: Place, deck: Deck) -> KeptRating:
    where = run.path(key)
    try:
        rating = as_record(KeptRating, unsealed(parse_json(data, where), where), where)
    except (InputError, CorruptObjectError) as error:
        raise InputError(f"{where} is not a rating: {error}; or remove it") from None
    if rating.rater != key.split("/")[-2]:
        raise InputError(f"{where} was given by {rating.rater!r}, and its directory is another rater's: remove it, or move it back")
    if rating.deck != deck.digest or rating.card >= len(deck.cards):
        raise InputError(f"{where} rates a card of another deck than {run.path('ratings/deck.json')}: remove one of the two")
    return rating
