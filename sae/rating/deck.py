"""The cards that people rate: features of all sources in a drawn order, each with its examples and without its name.

`ratings/deck.json` is written once; everybody rates the same cards in the same order, so that any two raters share those they both
reached. It holds for each card which feature it is (`source`, `feature`: never sent to a rater) and what is shown of it (`shown`):
`x` examples as in the report (`k` 0 strongest, 1 from the intervals, 2 the same tokens elsewhere, `c` index of the token the example was
chosen for, `t` token numbers, `a` activations as pairs), `u` and `b` the most raised and most lowered tokens [text, share of the largest
effect]. No absolute activation is shown, nor where in the text an example stands: they would tell sources apart.
"""

import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from sae.config import Config, Seed
from sae.errors import InputError, PlanError
from sae.interpretation.sampling import draw_seed
from sae.rating.packing import TokenNumbers, pairs
from sae.records import Record, as_record, open_proved
from sae.run.layout import SUMMARY_KEY
from sae.storage import Place, parse_json, sealed, sha256_hex, to_json, unsealed
from sae.tables import parquet_rows

Json = dict[str, Any]
DECK_KEY = "ratings/deck.json"
SHOWN = (("top", 10), ("interval", 12), ("out_of_context", 6))  # kinds of examples, and how many of each at most
EFFECTS = 10


class DeckConfig(Config):
    """Configuration of a deck: the features to rate."""

    features_per_source: PositiveInt = Field(20, le=10_000, description="features of each source, a seeded sample of those that have a score")
    seed: Seed = Field(0, description="of the sample and of the order of the cards")


class ShownExample(Record):
    """One example on a card."""

    k: NonNegativeInt
    c: NonNegativeInt
    t: list[NonNegativeInt]
    a: list[NonNegativeInt]


class ShownCard(Record):
    """Part of a card that a rater may see."""

    x: list[ShownExample]
    u: list[tuple[str, float]]
    b: list[tuple[str, float]]


class Card(Record):
    """A card."""

    source: str
    feature: NonNegativeInt
    shown: ShownCard


class DeckRecord(Record):
    """`ratings/deck.json`."""

    config: DeckConfig
    tokens: list[str]
    cards: list[Card]
    sources: dict[str, str]

    @model_validator(mode="after")
    def _holds_what_its_cards_show(self) -> Self:
        if any(card.source not in self.sources for card in self.cards):
            raise ValueError("a card is of a source that the deck does not name")
        if any(number >= len(self.tokens) for card in self.cards for example in card.shown.x for number in example.t):
            raise ValueError("a card shows a token that the deck does not hold")
        return self


class Deck:
    """A deck as it was written.

    Attributes:
        digest: SHA-256 of the object, in each of its ratings.
        config: how it was drawn.
        tokens: texts of the tokens the cards show.
        cards: of each card `source`, `feature` and `shown`.
        sources: for each source the SHA-256 of the `features.parquet` it was drawn from.
    """

    def __init__(self, data: bytes, record: DeckRecord) -> None:
        self.digest = sha256_hex(data)
        self.config = record.config
        self.tokens: list[str] = record.tokens
        self.cards: list[Json] = [card.model_dump(mode="json") for card in record.cards]
        self.sources: dict[str, str] = record.sources

    def feature(self, card: int) -> tuple[str, int]:
        """Source and index of the feature on a card."""
        return self.cards[card]["source"], self.cards[card]["feature"]

    def shown(self, card: int) -> Json:
        """Return the part of a card that a rater may see."""
        shown: Json = self.cards[card]["shown"]
        numbers = sorted({number for example in shown["x"] for number in example["t"]})
        return shown | {"tokens": {str(number): self.tokens[number] for number in numbers}}


def read_deck(run: Place) -> Deck:
    """The deck of a run, proved.

    Raises:
        InputError: there is none, or it is not a deck of this version.
        CorruptObjectError: it was changed after it was written.
    """
    data, where = run.get(DECK_KEY), run.path(DECK_KEY)
    try:
        return Deck(data, as_record(DeckRecord, unsealed(parse_json(data, where), where), where))
    except InputError as error:
        raise InputError(f"{error}; or move {run.path('ratings')} away and rate again") from None


def make_deck(run: Place, token_texts: Sequence[str], config: DeckConfig) -> Deck:
    """Draw the cards of a run and write them.

    Args:
        run: the run directory, interpreted.
        token_texts: the text of every token of the vocabulary: a deck of numbers could not be rated.
        config: how many, and the seed.

    Raises:
        InputError: nothing was interpreted, or no feature has a score.
        PlanError: there is another deck already.
    """
    sources = sources_of(run)
    tokens, drawn = TokenNumbers(token_texts), {}
    for name in sources:
        drawn[name] = _draw(run, name, config)
    order = _order({name: len(features) for name, features in drawn.items()}, config.seed)
    if not order:
        raise InputError(f"no interpreted feature of {run.url} has a score to compare people with: interpret more text first")
    packed = {name: iter(_pack(run, name, features, tokens)) for name, features in drawn.items()}
    cards = [{"source": name, **next(packed[name])} for name in order]
    data = to_json(sealed({"config": config.model_dump(), "tokens": tokens.texts, "sources": sources, "cards": cards}))
    if not run.put_new(DECK_KEY, data):
        raise PlanError(f"{run.path(DECK_KEY)} is there already and differs: rate it as it is, or move {run.path('ratings')} away")
    return read_deck(run)


def sources_of(run: Place) -> dict[str, str]:
    """Each interpreted source with the SHA-256 of its `features.parquet`.

    Raises:
        InputError: there is none.
    """
    keys = run.list("interpretation")
    names = [key.split("/")[1] for key in keys if key.count("/") == 2 and key.endswith("/summary.json")]
    if not names:
        raise InputError(f"{run.url} holds no interpreted source, so there is nothing to rate: `monosem interpret` comes first")
    return {name: sha256_hex(_proved(run.child("interpretation", name), "features.parquet")) for name in names}


def _table(source: Place, key: str, columns: list[str] | None = None, features: list[int] | None = None) -> pa.Table:
    return parquet_rows(_proved(source, key), source.path(key), columns, features)


def _proved(source: Place, key: str) -> pa.Buffer:
    """A table of a source, by the digest in its summary."""
    tables = source.get_sealed(SUMMARY_KEY).get("tables")
    return open_proved(source, key, tables.get(key) if isinstance(tables, dict) else None, source.path(SUMMARY_KEY))


def _draw(run: Place, source: str, config: DeckConfig) -> list[int]:
    table = _table(run.child("interpretation", source), "features.parquet", ["feature", "score_spearman"])
    scored = table.filter(pc.is_valid(table["score_spearman"]))["feature"].to_numpy()
    draw = np.random.default_rng(draw_seed(config.seed, "deck", source))
    return [int(feature) for feature in draw.permutation(scored)[: config.features_per_source]]


def _order(counts: dict[str, int], seed: int) -> list[str]:
    """Rounds of one card of each source, shuffled within: whoever stops early has rated about as many of each."""
    draw = np.random.default_rng(draw_seed(seed, "deck", "order"))
    rounds = [[name for name, count in counts.items() if count > turn] for turn in range(max(counts.values(), default=0))]
    return [names[place] for names in rounds for place in draw.permutation(len(names))]


def _pack(run: Place, source: str, features: list[int], tokens: TokenNumbers) -> list[Json]:
    place = run.child("interpretation", source)
    rows = {row["feature"]: row for row in _table(place, "features.parquet", features=features).to_pylist()}
    columns = ["feature", "kind", "interval", "used_for", "peak", "tokens", "activations"]
    table = _table(place, "examples.parquet", columns, features)
    examples: dict[int, list[Json]] = {feature: [] for feature in features}
    for example in table.filter(pc.equal(table["used_for"], "explanation")).to_pylist():
        examples[example["feature"]].append(example)
    return [{"feature": feature, "shown": _shown(rows[feature], examples[feature], tokens)} for feature in features]


def _shown(row: Json, examples: list[Json], tokens: TokenNumbers) -> Json:
    maximum = row["max_activation"]
    chosen = [(kind, each) for kind, (name, most) in enumerate(SHOWN) for each in _spread([e for e in examples if e["kind"] == name], most)]
    largest = max((abs(each["effect"]) for each in (*row["top_logits"], *row["bottom_logits"])), default=0.0)
    return {
        "x": [
            {
                "k": kind,
                "c": each["peak"],
                "t": tokens.line(each["tokens"]),
                "a": pairs(each["activations"], maximum, math.ceil),
            }
            for kind, each in chosen
        ],
        "u": [[each["text"], round(each["effect"] / largest, 3)] for each in row["top_logits"][:EFFECTS]] if largest else [],
        "b": [[each["text"], round(each["effect"] / largest, 3)] for each in row["bottom_logits"][:EFFECTS]] if largest else [],
    }


def _spread(examples: list[Json], most: int) -> list[Json]:
    """At most so many, one of each interval before a second of any, strongest interval first."""
    seen: dict[int, int] = {}
    ranked = []
    for each in examples:
        ranked.append((seen.get(each["interval"], 0), -each["interval"]))
        seen[each["interval"]] = seen.get(each["interval"], 0) + 1
    kept = [each for _, each in sorted(zip(ranked, examples, strict=True), key=lambda pair: pair[0])[:most]]
    return sorted(kept, key=lambda each: -each["interval"]) if examples and examples[0]["kind"] == "interval" else examples[:most]
