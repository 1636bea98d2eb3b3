"""Agreement of the automatic scores with people, and of people with each other."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from sae.errors import InputError
from sae.interpretation.sampling import draw_seed
from sae.interpretation.scoring import BOOTSTRAP_DRAWS, CONFIDENCE, pearson, ranks, spearman
from sae.rating.deck import DECK_KEY, Deck, read_deck
from sae.rating.records import KeptRating, Ratings, latest, raters_of
from sae.records import open_proved
from sae.storage import Place, sha256_hex
from sae.tables import parquet_rows

MIN_PAIRS = 3  # a correlation of fewer says nothing
ALL, EXPLANATION_SCORE = "all sources", "explanation score"
Feature = tuple[str, int]
Interval = tuple[float, float] | None
Scores = Mapping[Feature, float]


@dataclass(frozen=True)
class Correlation:
    """Two scores of the same features.

    Attributes:
        measure: the automatic score, by its name.
        scope: the source the features are of, or `ALL`.
        num_pairs: features that have both scores.
        pearson: correlation, None for fewer than `MIN_PAIRS`.
        pearson_interval: 95 % bootstrap interval over features.
        spearman: rank correlation.
        spearman_interval: its interval.
    """

    measure: str
    scope: str
    num_pairs: int
    pearson: float | None = None
    pearson_interval: Interval = None
    spearman: float | None = None
    spearman_interval: Interval = None


@dataclass(frozen=True)
class SourceMean:
    """Mean rating of the features of a source, in points of 14.

    Attributes:
        source: its name.
        num_features: rated features, each counted once with the mean of its raters.
        mean: over those features.
        interval: 95 % bootstrap interval of the mean over features.
        points: of each of them.
    """

    source: str
    num_features: int
    mean: float
    interval: Interval
    points: tuple[float, ...]


@dataclass(frozen=True)
class RaterPair:
    """Two raters on the features that both rated; `mean_difference` is the mean of |points − points|."""

    raters: tuple[str, str]
    correlation: Correlation
    mean_difference: float | None


@dataclass(frozen=True)
class Agreement:
    """All that the ratings of a run say.

    Attributes:
        raters: with the number of cards each has rated.
        num_cards: in the deck.
        means: per source.
        correlations: of people with each automatic score, over all sources and within each.
        pairs: of raters.
        ratings: the ratings that count of each feature.
    """

    raters: dict[str, int]
    num_cards: int
    means: list[SourceMean]
    correlations: list[Correlation]
    pairs: list[RaterPair]
    ratings: dict[Feature, list[KeptRating]]


def agreement_of(run: Place, measures: Mapping[str, Scores] | None = None) -> Agreement | None:
    """The agreement of a run's ratings with its automatic scores; None where nobody has rated.

    Args:
        run: the run directory.
        measures: automatic scores by name; by default the explanation score of `features.parquet`.

    Raises:
        InputError: a rating is damaged, or a source was interpreted anew since the cards were drawn.
    """
    if not run.exists(DECK_KEY):
        return None
    deck = read_deck(run)
    given = {rater: latest(Ratings(run, deck).of(rater)) for rater in raters_of(run)}
    if not any(given.values()):
        return None
    for source, digest in deck.sources.items():
        key = f"interpretation/{source}/features.parquet"
        if not run.exists(key) or sha256_hex(run.open_buffer(key)) != digest:
            raise InputError(f"{source} was interpreted anew after its cards were drawn: move {run.path('ratings')} away and rate again")
    return compare(deck, given, measures or {EXPLANATION_SCORE: explanation_scores(run, deck)})


def compare(deck: Deck, given: Mapping[str, Mapping[int, KeptRating]], measures: Mapping[str, Scores]) -> Agreement:
    """Set ratings against scores.

    A feature's points are the mean over its raters. Intervals: percentile bootstrap over features.

    Args:
        deck: the cards.
        given: for each rater the rating that counts of each card.
        measures: automatic scores by name.
    """
    ratings: dict[Feature, list[KeptRating]] = {}
    for rated in given.values():
        for card, rating in rated.items():
            ratings.setdefault(deck.feature(card), []).append(rating)
    points = {feature: float(np.mean([rating.total for rating in each])) for feature, each in ratings.items()}
    scopes = [ALL, *(source for source in deck.sources if any(feature[0] == source for feature in points))]
    return Agreement(
        raters={rater: len(rated) for rater, rated in given.items()},
        num_cards=len(deck.cards),
        means=[_mean(source, points) for source in scopes[1:]],
        correlations=[_against(name, scope, points, scores) for name, scores in measures.items() for scope in scopes],
        pairs=[_pair((one, other), given[one], given[other]) for one, other in combinations(given, 2)],
        ratings=ratings,
    )


def explanation_scores(run: Place, deck: Deck) -> dict[Feature, float]:
    """The score of the explanation made without a language model, of every feature of the deck."""
    scores: dict[Feature, float] = {}
    for source in deck.sources:
        wanted = [card["feature"] for card in deck.cards if card["source"] == source]
        place = run.child("interpretation", source)
        buffer = open_proved(place, "features.parquet", deck.sources[source], run.path(DECK_KEY))
        table = parquet_rows(buffer, place.path("features.parquet"), ["feature", "score_spearman"], wanted)
        scores |= {(source, row["feature"]): row["score_spearman"] for row in table.to_pylist() if row["score_spearman"] is not None}
    return scores


def correlation(measure: str, scope: str, one: np.ndarray, other: np.ndarray) -> Correlation:
    """Pearson and Spearman correlation with 95 % percentile-bootstrap intervals, pairs being drawn with replacement."""
    size = len(one)
    if size < MIN_PAIRS:
        return Correlation(measure, scope, size)
    draws = np.random.default_rng(draw_seed("ratings", measure, scope)).integers(0, size, (BOOTSTRAP_DRAWS, size))
    plain = _rows_pearson(one[draws], other[draws])
    ranked = _rows_pearson(ranks(one[draws]), ranks(other[draws]))
    return Correlation(measure, scope, size, pearson(one, other), _interval(plain), spearman(one, other), _interval(ranked))


def _against(name: str, scope: str, points: Scores, scores: Scores) -> Correlation:
    both = sorted(feature for feature in points.keys() & scores.keys() if scope in (ALL, feature[0]))
    return correlation(name, scope, np.array([points[each] for each in both]), np.array([scores[each] for each in both]))


def _mean(source: str, points: Scores) -> SourceMean:
    values = np.array([value for feature, value in sorted(points.items()) if feature[0] == source])
    interval = None
    if len(values) > 1:
        draws = np.random.default_rng(draw_seed("ratings", "mean", source)).integers(0, len(values), (BOOTSTRAP_DRAWS, len(values)))
        interval = _interval(values[draws].mean(1))
    return SourceMean(source, len(values), float(values.mean()), interval, tuple(values.tolist()))


def _pair(raters: tuple[str, str], one: Mapping[int, KeptRating], other: Mapping[int, KeptRating]) -> RaterPair:
    both = sorted(one.keys() & other.keys())
    first, second = (np.array([rated[card].total for card in both]) for rated in (one, other))
    difference = float(np.abs(first - second).mean()) if both else None
    return RaterPair(raters, correlation(" and ".join(raters), ALL, first, second), difference)


def _rows_pearson(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Pearson of each row; 0 where either side is constant, as in `pearson`."""
    one, other = one - one.mean(1, keepdims=True), other - other.mean(1, keepdims=True)
    scale = np.sqrt((one**2).sum(1) * (other**2).sum(1))
    return np.divide((one * other).sum(1), scale, out=np.zeros(len(one)), where=scale > 1e-12)


def _interval(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
