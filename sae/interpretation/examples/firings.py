"""Every firing of every feature over a text, kept by feature: the scratch table between running the model and looking at features.

One object per run of sequences, an Arrow IPC file of one row per feature with its firings as lists, so that a range of features is
read out of it without the rest. A firing takes 8 bytes: position (uint32, a flat index into the text) and activation (float32).
Behind it stands its SHA-256, compared once, when an interrupted interpretation takes it up (`scratch.whole_tables`).
"""

import numpy as np
import pyarrow as pa
from scipy.sparse import csc_array

from sae.errors import CorruptObjectError, InputError
from sae.interpretation.sources.scratch import put_table, split_digest
from sae.storage import Place

FeatureFirings = tuple[np.ndarray, np.ndarray]
"""Where a feature fires, flat indices into a text, ascending; and how strongly."""


def write_firings(place: Place, key: str, blocks: list[csc_array], positions: np.ndarray) -> int:
    """Write the firings of one run of sequences; returns how many there are.

    Args:
        place: of the source.
        key: of the object.
        blocks: the code of each batch `[batch features]`, no zero stored; together one row per entry of `positions`.
        positions: where each row stands in the text, ascending.
    """
    counts = np.stack([np.diff(block.indptr) for block in blocks]).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(counts.sum(0))])
    rows, values = np.empty(offsets[-1], np.uint32), np.empty(offsets[-1], np.float32)
    begins = offsets[:-1] + np.cumsum(counts, axis=0) - counts
    first_row = 0
    for block, count, begin in zip(blocks, counts, begins, strict=True):
        targets = np.repeat(begin - block.indptr[:-1], count) + np.arange(block.nnz)
        rows[targets] = positions[first_row + block.indices]
        values[targets] = block.data
        first_row += block.shape[0]
    table = pa.table({name: pa.LargeListArray.from_arrays(offsets, pa.array(column)) for name, column in (("positions", rows), ("values", values))})
    put_table(place, key, table)
    return len(rows)


class Firings:
    """The firings of the features `[low, high)` over a text, in memory: 8 bytes each.

    Args:
        place: of the source.
        keys: the objects of the text, in its order.
        low: first feature.
        high: one past the last.
    """

    def __init__(self, place: Place, keys: list[str], low: int, high: int) -> None:
        self.low = low
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for key in keys:
            table = _read(place, key).slice(low, high - low)
            positions, values = table.column("positions").chunk(0), table.column("values").chunk(0)
            offsets = positions.offsets.to_numpy()
            # Copies: a view would keep the whole object in memory where it is not a memory map.
            self._parts.append((offsets - offsets[0], positions.flatten().to_numpy().copy(), values.flatten().to_numpy().copy()))

    def of(self, feature: int) -> FeatureFirings:
        """The firings of one feature."""
        row = feature - self.low
        cuts = [slice(offsets[row], offsets[row + 1]) for offsets, _, _ in self._parts]
        positions = [positions[cut] for cut, (_, positions, _) in zip(cuts, self._parts, strict=True)]
        values = [values[cut] for cut, (_, _, values) in zip(cuts, self._parts, strict=True)]
        return np.concatenate(positions).astype(np.int64), np.concatenate(values)


def firing_counts(place: Place, keys: list[str]) -> np.ndarray:
    """Firings of every feature over a text."""
    return np.sum([_read(place, key).column("positions").chunk(0).value_lengths().to_numpy() for key in keys], axis=0)


def read_firings(place: Place, key: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The firings of all features over one run of sequences: positions, values, and where those of each feature begin, one more at the end."""
    table = _read(place, key)
    positions, values = table.column("positions").chunk(0), table.column("values").chunk(0)
    return positions.values.to_numpy(), values.values.to_numpy(), positions.offsets.to_numpy()


def _read(place: Place, key: str) -> pa.Table:
    """The table of a run of sequences; its digest is not compared, since every range of features reads it again."""
    try:
        return pa.ipc.open_file(split_digest(place.open_buffer(key))[0]).read_all()
    except (pa.ArrowException, OSError, InputError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CorruptObjectError(
            f"{place.path(key)} is not a whole table of firings ({reason}). Delete {place.url}/scratch and interpret again"
        ) from None
