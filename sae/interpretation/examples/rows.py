"""Chosen examples as rows of `examples.parquet`."""

from typing import Literal

import numpy as np
import pyarrow as pa

from sae.interpretation.examples.choice import Chosen
from sae.interpretation.examples.firings import FeatureFirings
from sae.interpretation.records import EXAMPLES_SCHEMA, KINDS, ExampleMix
from sae.interpretation.text.passages import Passages


class ExampleRows:
    """The examples of many features in one text.

    Args:
        passages: the text.
        used_for: what they serve.
        mix: how much text is shown around each.
    """

    def __init__(self, passages: Passages, used_for: Literal["explanation", "scoring"], mix: ExampleMix) -> None:
        self.passages, self.used_for, self.mix = passages, used_for, mix
        self._activation = np.zeros(passages.num_tokens, np.float32)
        self._features: list[np.ndarray] = []
        self._chosen: list[Chosen] = []
        self._activations: list[np.ndarray] = []
        self._predicted: list[np.ndarray] = []

    def add(self, feature: int, chosen: Chosen, firings: FeatureFirings, predicted: np.ndarray | None) -> np.ndarray:
        """Add a feature's examples, given all its firings; returns the activations in the windows, `[examples, window]`."""
        activations = self.activations(chosen, firings)
        self._features.append(np.full(len(chosen.positions), feature, np.uint32))
        self._chosen.append(chosen)
        self._activations.append(activations)
        if predicted is not None:
            self._predicted.append(predicted)
        return activations

    def activations(self, chosen: Chosen, firings: FeatureFirings) -> np.ndarray:
        """The activations in the windows of some examples, `[examples, window]`, given all firings of their feature."""
        positions, values = firings
        self._activation[positions] = values
        activations = self._activation[self.passages.windows(chosen.positions, self.mix)]
        self._activation[positions] = 0  # the same zeros serve the next feature
        return activations

    def table(self) -> pa.Table:
        """All rows, in the order they were added."""
        if not self._features:
            return EXAMPLES_SCHEMA.empty_table()
        peaks = np.concatenate([chosen.positions for chosen in self._chosen])
        starts = self.passages.starts(peaks, self.mix)
        sequences, columns = np.divmod(starts, self.passages.length)
        tokens = self.passages.tokens.reshape(-1)[starts[:, None] + np.arange(self.mix.window)]
        size = len(peaks)
        kinds = pa.DictionaryArray.from_arrays(pa.array(np.concatenate([chosen.kinds for chosen in self._chosen]), pa.int8()), pa.array(KINDS))
        values = [
            np.concatenate(self._features),
            kinds.cast(pa.string()),
            np.concatenate([chosen.intervals for chosen in self._chosen]),
            pa.repeat(self.used_for, size),
            pa.repeat(str(self.passages.split), size),
            self.passages.sequence_ids[sequences],
            columns,
            peaks - starts,
            _lists(tokens),
            _lists(np.concatenate(self._activations)),
            _lists(np.concatenate(self._predicted)) if self._predicted else pa.nulls(size, pa.list_(pa.float32())),
        ]
        return pa.table([pa.array(value).cast(field.type) for value, field in zip(values, EXAMPLES_SCHEMA, strict=True)], schema=EXAMPLES_SCHEMA)


def join_rows(shown: ExampleRows, scored: ExampleRows) -> pa.Table:
    """Both as one table, feature by feature, explanation examples first."""
    table = pa.concat_tables([shown.table(), scored.table()])
    return table.take(pa.array(np.argsort(table.column("feature").to_numpy(), kind="stable"))).combine_chunks()


def _lists(values: np.ndarray) -> pa.Array:
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.ascontiguousarray(values).reshape(-1)))
