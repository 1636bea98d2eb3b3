"""Neighbours of a feature: those that fire with it and those that write in nearly its direction, and where they fire strongest.

All of it is sums and maxima over runs of sequences, which are read one after the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from scipy.sparse import csc_array
from torch.nn.functional import normalize

from sae.interpretation.examples.firings import read_firings
from sae.interpretation.records import FEATURES_SCHEMA
from sae.interpretation.sources.sources import FeatureSource
from sae.storage import Place

NUM_NEIGHBOURS = 8  # of either sort are recorded
HARD_NEIGHBOURS = 4  # of either sort, whose strongest places become hard negatives
PLACES = 48  # strongest places of a neighbour that are looked at: at most of them the feature may fire itself
COUNTED_FIRINGS = 2**24  # at most about so many are counted: of sources that fire everywhere, fewer runs of sequences
DENSE, DENSE_ENTRIES = 0.02, 2**26  # density from which a product of whole matrices is faster than one of sparse ones, and how large they may be
DIRECTION_ROWS = 4096  # directions compared at once


@dataclass(frozen=True)
class Neighbours:
    """The neighbours of the rows `[low, high)` of a source, and where these fire strongest in either text.

    Attributes:
        low: first row.
        co_firing: rows that fire with each, and their phi.
        similar: rows that write in nearly its direction, and the cosines.
        places: for every row that serves for hard negatives its strongest places in the texts for explanation and scoring.
    """

    low: int
    co_firing: tuple[np.ndarray, np.ndarray]
    similar: tuple[np.ndarray, np.ndarray]
    places: tuple[dict[int, np.ndarray], dict[int, np.ndarray]]

    def candidates(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Where the neighbours of a row fire strongest in either text, the neighbours in turn."""
        rows = hard_rows(self.co_firing[0][row - self.low], self.similar[0][row - self.low])
        explanation, scoring = ([places[each] for each in rows] for places in self.places)
        return _in_turn(explanation), _in_turn(scoring)

    def columns(self, features: np.ndarray) -> dict[str, pa.Array]:
        """The columns of `FEATURES_SCHEMA` that name them, given the feature of every row of the source."""
        return {"co_firing": _column("co_firing", features, *self.co_firing), "similar": _column("similar", features, *self.similar)}


class StrongestPlaces:
    """The `PLACES` positions at which features fire strongest in a text; each is looked for once, however many have it for a neighbour.

    Memory: 400 bytes for each row that was asked for, and one run of sequences while it is looked for.

    Args:
        place: of the source.
        keys: the firings of the text, in its order.
    """

    def __init__(self, place: Place, keys: Sequence[str]) -> None:
        self.place, self.keys = place, keys
        self._found: dict[int, np.ndarray] = {}

    def of(self, rows: np.ndarray) -> dict[int, np.ndarray]:
        """For each of the rows, strongest first."""
        missing = [row for row in rows.tolist() if row not in self._found]
        self._found |= self._look_for(missing) if missing else {}
        return {row: self._found[row] for row in rows.tolist()}

    def _look_for(self, rows: list[int]) -> dict[int, np.ndarray]:
        found: dict[int, tuple[np.ndarray, np.ndarray]] = {row: (np.empty(0, np.int64), np.empty(0, np.float32)) for row in rows}
        for key in self.keys:
            positions, values, offsets = read_firings(self.place, key)
            for row, (known, strengths) in found.items():
                cut = slice(offsets[row], offsets[row + 1])
                places, strong = positions[cut], values[cut]
                if len(strong) > PLACES:
                    head = np.argpartition(-strong, PLACES)[:PLACES]
                    places, strong = places[head], strong[head]
                found[row] = np.concatenate([known, places]), np.concatenate([strengths, strong])
        return {row: places[np.lexsort((places, -strong))[:PLACES]] for row, (places, strong) in found.items()}


def find_neighbours(
    places: tuple[StrongestPlaces, StrongestPlaces], rows: tuple[int, int], similar: pa.Table, readable: np.ndarray, run_tokens: int
) -> Neighbours:
    """The neighbours of a range of rows.

    Args:
        places: of the source, in the explanation text and in the scoring text.
        rows: the range `[low, high)`.
        similar: of `similar_directions`.
        readable: which tokens of the explanation text features are read at.
        run_tokens: tokens of every run of sequences but the last.
    """
    low, high = rows
    fires = co_firing(places[0].place, places[0].keys, rows, readable, run_tokens)
    near, cosines = (similar.column(name).combine_chunks().slice(low, high - low).flatten() for name in ("rows", "cosines"))
    alike = near.to_numpy().reshape(-1, NUM_NEIGHBOURS), cosines.to_numpy().reshape(-1, NUM_NEIGHBOURS)
    wanted = np.unique(np.array([row for pair in zip(fires[0], alike[0], strict=True) for row in hard_rows(*pair)], np.int64))
    return Neighbours(low, fires, alike, (places[0].of(wanted), places[1].of(wanted)))


def co_firing(place: Place, keys: Sequence[str], rows: tuple[int, int], readable: np.ndarray, run_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows that fire most with each row of `[low, high)`, and by how much.

    The measure is the phi coefficient, Pearson's correlation of the two features' firing or not: with N tokens, of which n_i, n_j and n_ij fire the
    one, the other and both, `phi = (N n_ij - n_i n_j) / sqrt(n_i (N - n_i) n_j (N - n_j))`. Only positive ones count. Of sources that fire
    everywhere an even choice of the runs is counted.

    Memory: 40 bytes for each pair of a row of the range and a row of the source, and one run of sequences (12 bytes a firing, or, where that is
    faster, 4 bytes for each of at most `DENSE_ENTRIES` pairs of a token and a feature).

    Returns:
        Rows of the neighbours `[high - low, NUM_NEIGHBOURS]`, -1 beyond the last, and their phi, 0 there.
    """
    low, high = rows
    wanted = int(np.clip(COUNTED_FIRINGS // max(len(read_firings(place, keys[0])[0]), 1), 1, len(keys)))
    both, single, tokens = np.zeros((high - low, 0)), np.zeros(0), 0
    for run in (number * len(keys) // wanted for number in range(wanted)):
        positions, _, offsets = read_firings(place, keys[run])
        there = readable[run * run_tokens : (run + 1) * run_tokens]
        rows_there = np.cumsum(there) - 1  # special tokens, at which nothing fires, take no row
        code = csc_array(
            (np.ones(len(positions), np.float32), rows_there[positions - run * run_tokens], offsets), shape=(int(there.sum()), len(offsets) - 1)
        )
        ours = code[:, low:high]
        entries = code.shape[0] * code.shape[1]
        # Of two sparse matrices the right one is laid out anew, by rows: the narrow one.
        counts = ours.toarray().T @ code.toarray() if DENSE * entries < code.nnz and entries <= DENSE_ENTRIES else (code.T @ ours).toarray().T
        both = both + counts if both.size else counts.astype(np.float64)
        # In floating point: the product of four counts does not fit into 64 bits.
        single, tokens = np.diff(offsets) + (single if single.size else 0.0), tokens + code.shape[0]
    chance = np.outer(single[low:high], single)
    spread = np.sqrt(np.outer(single[low:high] * (tokens - single[low:high]), single * (tokens - single)))
    phi = np.divide(tokens * both - chance, spread, out=np.zeros_like(spread), where=spread > 0)
    phi[np.arange(high - low), np.arange(low, high)] = 0  # itself
    return _largest(phi)


def similar_directions(source: FeatureSource, features: np.ndarray) -> pa.Table:
    """The features whose directions have the largest positive cosine with each one's: columns `rows` and `cosines`, `NUM_NEIGHBOURS` of each."""
    ids, cosines = [], []
    for low in range(0, len(features), DIRECTION_ROWS):
        ours = _unit_directions(source, features[low : low + DIRECTION_ROWS])
        found = [(np.full((len(ours), NUM_NEIGHBOURS), -1), np.zeros((len(ours), NUM_NEIGHBOURS)))]
        for start in range(0, len(features), DIRECTION_ROWS):
            block = (ours @ _unit_directions(source, features[start : start + DIRECTION_ROWS]).T).numpy(force=True).astype(np.float64)
            if start == low:
                np.fill_diagonal(block, 0)
            rows, values = _largest(block)
            found.append((np.where(rows >= 0, rows + start, -1), values))
        rows, values = (np.concatenate([pair[side] for pair in found], axis=1) for side in range(2))
        order = np.argsort(-values, axis=1, kind="stable")[:, :NUM_NEIGHBOURS]
        ids.append(np.take_along_axis(rows, order, 1))
        cosines.append(np.take_along_axis(values, order, 1))
    columns = {"rows": (ids, np.int64, pa.int64()), "cosines": (cosines, np.float64, pa.float64())}
    empty = np.empty((0, NUM_NEIGHBOURS))
    return pa.table(
        {
            name: pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate([empty, *parts]).astype(kind).reshape(-1), arrow), NUM_NEIGHBOURS)
            for name, (parts, kind, arrow) in columns.items()
        }
    )


def hard_rows(co_firing_rows: np.ndarray, similar_rows: np.ndarray) -> list[int]:
    """The neighbours of a feature whose places serve as hard negatives, the two sorts in turn, each once."""
    pairs = np.stack([co_firing_rows[:HARD_NEIGHBOURS], similar_rows[:HARD_NEIGHBOURS]], axis=1).reshape(-1)
    return list(dict.fromkeys(pairs[pairs >= 0].tolist()))


def _largest(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns and values of the `NUM_NEIGHBOURS` largest positive entries of each row, largest first; -1 and 0 where there are fewer."""
    columns = np.full((len(values), NUM_NEIGHBOURS), -1)
    largest = np.zeros((len(values), NUM_NEIGHBOURS))
    head = np.argpartition(-values, NUM_NEIGHBOURS, axis=1)[:, :NUM_NEIGHBOURS] if values.shape[1] > NUM_NEIGHBOURS else None
    head = np.broadcast_to(np.arange(values.shape[1]), values.shape) if head is None else np.sort(head, axis=1)
    found = np.take_along_axis(values, head, 1)
    order = np.argsort(-found, axis=1, kind="stable")
    found, head = np.take_along_axis(found, order, 1), np.take_along_axis(head, order, 1)
    columns[:, : head.shape[1]] = np.where(found > 0, head, -1)
    largest[:, : head.shape[1]] = np.maximum(found, 0)
    return columns, largest


def _unit_directions(source: FeatureSource, features: np.ndarray) -> torch.Tensor:
    low, high = int(features[0]), int(features[-1]) + 1
    return normalize(source.directions(low, high)[torch.from_numpy(features - low)].float())


def _in_turn(places: list[np.ndarray]) -> np.ndarray:
    """The first of each, then the second of each, and so on."""
    if not places:
        return np.empty(0, np.int64)
    turns = np.concatenate([np.arange(len(each)) for each in places])
    return np.concatenate(places)[np.argsort(turns, kind="stable")]


def _column(name: str, features: np.ndarray, rows: np.ndarray, values: np.ndarray) -> pa.Array:
    kind = FEATURES_SCHEMA.field(name).type
    keys = [field.name for field in kind.value_type]
    entries = [
        [dict(zip(keys, (int(features[row]), value), strict=True)) for row, value in zip(some, each, strict=True) if row >= 0]
        for some, each in zip(rows.tolist(), values.tolist(), strict=True)
    ]
    return pa.array(entries, kind)
