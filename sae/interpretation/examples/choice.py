"""Choice of examples: strongest, of each activation interval, random, the feature's tokens elsewhere, and where neighbours fire."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from sae.interpretation.examples.firings import FeatureFirings
from sae.interpretation.records import KINDS, NUM_INTERVALS, ExampleMix
from sae.interpretation.sampling import draw_seed, priorities
from sae.interpretation.text.passages import Passages

HEAD = 20  # times as many of the strongest firings are looked at as are wanted, since some repeat each other
DRAWN = 4  # times as many candidates are drawn as are wanted, since some repeat others
THINNED = 64  # about as many random firings of each interval are drawn from
NUM_ANCHORS = 10  # tokens of the strongest examples that are looked for elsewhere


@dataclass(frozen=True)
class Chosen:
    """The examples of a feature in one text.

    Attributes:
        positions: where they peak, flat indices into the text.
        kinds: indices into `KINDS`, ascending; within a kind the strongest (or first drawn) first.
        intervals: of the activation there, -1 where the feature does not fire.
    """

    positions: np.ndarray
    kinds: np.ndarray
    intervals: np.ndarray


class ExamplePool:
    """The places of a text that may be chosen, in the orders in which they are drawn.

    Memory: 32 bytes per token.

    Args:
        passages: the text.
        digests: of each position's surroundings; of places with equal ones only one is chosen.
        eligible: which positions may be chosen.
        seed: of the orders.
    """

    def __init__(self, passages: Passages, digests: np.ndarray, eligible: np.ndarray, seed: int) -> None:
        self.passages, self.digests, self.eligible = passages, digests, eligible
        positions = np.flatnonzero(eligible)
        self.shuffled = positions[np.argsort(priorities(positions, draw_seed(seed, passages.split)), kind="stable")]
        tokens = passages.tokens.reshape(-1)[self.shuffled]
        by_token = np.argsort(tokens, kind="stable")
        self._by_token = self.shuffled[by_token]
        self._starts = np.cumsum([0, *np.bincount(tokens.astype(np.int64), minlength=1)])

    def occurrences(self, token: int, start: int, limit: int) -> np.ndarray:
        """Up to `limit` places of a token, beginning anywhere in their random order."""
        low, high = self._starts[token : token + 2] if token + 1 < len(self._starts) else (0, 0)
        size = high - low
        return self._by_token[low + (start + np.arange(min(limit, size))) % max(size, 1)]


def intervals_of(values: np.ndarray, maximum: float) -> np.ndarray:
    """Find the interval of (0, maximum] that each activation falls into; above it counts as the last, 0 as -1."""
    intervals = np.clip(np.ceil(values.astype(np.float64) / maximum * NUM_INTERVALS) - 1, 0, NUM_INTERVALS - 1)
    return np.where(values > 0, intervals, -1).astype(np.int8)


def anchor_tokens(pool: ExamplePool, positions: np.ndarray) -> list[int]:
    """The tokens at the strongest examples, strongest first, each once."""
    tokens: list[int] = pool.passages.tokens.reshape(-1)[positions].tolist()
    return list(dict.fromkeys(tokens))[:NUM_ANCHORS]


def choose(
    pool: ExamplePool,
    firings: FeatureFirings,
    maximum: float,
    anchors: list[int] | None,
    mix: ExampleMix,
    seed: int,
    near: np.ndarray | None = None,
) -> Chosen:
    """Choose the examples of a feature.

    Args:
        pool: of the text.
        firings: where it fires, and how strongly.
        maximum: upper end of its activation range.
        anchors: tokens to look for out of context; None takes those of the top examples chosen here.
        mix: how many of each kind.
        seed: of this feature.
        near: places at which its neighbours fire, the best first.
    """
    silent = _silent(pool.passages, near[pool.eligible[near]], firings[0], mix) if near is not None else np.empty(0, np.int64)
    positions, values = firings
    allowed = pool.eligible[positions]
    positions, values = positions[allowed], values[allowed]
    intervals, taken = intervals_of(values, maximum), set[int]()
    top = strongest(pool, positions, values, mix.top)
    taken.update(pool.digests[positions[top]].tolist())
    sample = _per_interval(pool, positions, intervals, mix.per_interval, (seed, taken))
    start = seed % max(1, len(pool.shuffled))
    random = _draw(pool, pool.shuffled[(start + np.arange(DRAWN * mix.random)) % max(1, len(pool.shuffled))], mix.random, taken)
    anchors = anchor_tokens(pool, positions[top]) if anchors is None else anchors
    elsewhere = _draw(pool, _interleaved(pool, anchors, start, 2 * mix.out_of_context), mix.out_of_context, taken)
    hard = _draw(pool, silent, mix.hard_negatives, taken)
    parts = [positions[top], sample, random, elsewhere, hard]
    chosen, kinds = np.concatenate(parts), np.repeat(np.arange(len(KINDS)), [len(part) for part in parts])
    return Chosen(chosen, kinds, _intervals_at(chosen, positions, intervals))


def strongest(pool: ExamplePool, positions: np.ndarray, values: np.ndarray, wanted: int) -> np.ndarray:
    """Indices of the strongest firings, strongest first, one of each surroundings and, as far as there are enough, of each sequence."""
    head = np.argsort(-values, kind="stable") if len(values) <= HEAD * wanted else np.argpartition(-values, HEAD * wanted)[: HEAD * wanted]
    head = head[np.lexsort((head, -values[head]))]
    head = head[_first_of_each(pool.digests[positions[head]])]
    spread = _first_of_each(positions[head] // pool.passages.length)[:wanted]
    others = np.setdiff1d(np.arange(len(head)), spread, assume_unique=True)[: wanted - len(spread)]
    return head[np.sort(np.concatenate([spread, others]))]


def _per_interval(pool: ExamplePool, positions: np.ndarray, intervals: np.ndarray, wanted: int, draw: tuple[int, set[int]]) -> np.ndarray:
    """Up to `wanted` random places of each interval, strongest interval first."""
    seed, taken = draw
    counts = np.bincount(intervals, minlength=NUM_INTERVALS)
    lots = priorities(positions, seed)
    # A lot must be low enough to have a chance: sorting all firings of a dense feature would take longer than all else.
    limits = np.minimum(1.0, THINNED / np.maximum(counts, 1))
    hopeful = np.flatnonzero(lots.astype(np.float64) <= (limits * 2.0**64)[intervals])
    hopeful = hopeful[np.lexsort((lots[hopeful], -intervals[hopeful]))]
    grouped = -intervals[hopeful]
    begins = np.searchsorted(grouped, np.arange(-NUM_INTERVALS + 1, 2))
    return np.concatenate([_draw(pool, positions[hopeful[low:high]], wanted, taken) for low, high in pairwise(begins.tolist())])


def _silent(passages: Passages, places: np.ndarray, firings: np.ndarray, mix: ExampleMix) -> np.ndarray:
    """Those of the places in whose windows a feature never fires."""
    starts = passages.starts(places, mix)
    return places[np.searchsorted(firings, starts) == np.searchsorted(firings, starts + mix.window)]


def num_distinct(pool: ExamplePool, positions: np.ndarray) -> int:
    """Count the places that may be chosen and differ in their surroundings."""
    values = pool.digests[positions[pool.eligible[positions]]]
    # numpy's own hashes integers, at forty times the cost of sorting them
    return int(np.count_nonzero(np.diff(np.sort(values)))) + bool(len(values))


def _first_of_each(values: np.ndarray) -> np.ndarray:
    """Indices of the first of each value, ascending."""
    return np.sort(np.unique(values, return_index=True)[1])


def _interleaved(pool: ExamplePool, tokens: list[int], start: int, limit: int) -> np.ndarray:
    """Places of the tokens, one of each in turn."""
    places = [pool.occurrences(token, start, limit) for token in tokens]
    turns = np.concatenate([np.arange(len(each)) for each in places]) if places else np.empty(0, np.int64)
    return np.concatenate(places)[np.argsort(turns, kind="stable")] if places else turns


def _draw(pool: ExamplePool, candidates: np.ndarray, wanted: int, taken: set[int]) -> np.ndarray:
    """The first `wanted` candidates whose surroundings are not taken; they are taken now."""
    drawn: list[int] = []
    candidates = candidates[: DRAWN * wanted]
    for position, digest in zip(candidates.tolist(), pool.digests[candidates].tolist(), strict=True):
        if len(drawn) == wanted:
            break
        if digest not in taken:
            taken.add(digest)
            drawn.append(position)
    return np.array(drawn, np.int64)


def _intervals_at(chosen: np.ndarray, positions: np.ndarray, intervals: np.ndarray) -> np.ndarray:
    if not len(positions):
        return np.full(len(chosen), -1, np.int8)
    found = np.minimum(np.searchsorted(positions, chosen), len(positions) - 1)
    return np.where(positions[found] == chosen, intervals[found], -1).astype(np.int8)
