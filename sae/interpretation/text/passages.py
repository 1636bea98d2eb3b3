"""The texts that explanations are learned from and scored on: sequences of one split, evenly spread over it.

A position is a flat index into `tokens`: `row * length + column`.
"""

from collections.abc import Collection

import numpy as np

from sae.corpus.packing import TokenCorpus
from sae.corpus.splitting import Split
from sae.errors import InputError
from sae.interpretation.records import ExampleMix

READ_BLOCK = 64  # sequences picked out of one read: all that lie between them pass through memory
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


class Passages:
    """Some sequences of a split.

    Args:
        split: where they come from.
        sequence_ids: their numbers in the split.
        tokens: `[sequences, length]`.
        special_token_ids: tokens at which features are not read.
    """

    def __init__(self, split: Split, sequence_ids: np.ndarray, tokens: np.ndarray, special_token_ids: Collection[int]) -> None:
        self.split, self.sequence_ids, self.tokens = split, sequence_ids, tokens
        self.length = tokens.shape[1]
        readable = ~np.isin(tokens, list(special_token_ids))
        readable[:, 0] = False  # BOS, whatever it is
        self.readable = readable.reshape(-1)
        self.num_readable = int(self.readable.sum())

    @property
    def num_tokens(self) -> int:
        """All tokens, special ones included."""
        return self.tokens.size

    def starts(self, positions: np.ndarray, mix: ExampleMix) -> np.ndarray:
        """Where the window around each position begins; windows near an end of the sequence are shifted inwards, past BOS."""
        rows, columns = np.divmod(positions, self.length)
        return rows * self.length + np.clip(columns - mix.tokens_before, 1, self.length - mix.window)

    def windows(self, positions: np.ndarray, mix: ExampleMix) -> np.ndarray:
        """The positions of the window around each position, `[positions, window]`."""
        return self.starts(positions, mix)[:, None] + np.arange(mix.window)

    def window_digests(self, window: int) -> np.ndarray:
        """A 64-bit digest of the `window` tokens from each position on; equal texts have equal digests. 0 where the sequence ends before."""
        mixed = (self.tokens.astype(np.uint64) + np.uint64(1)) * _MULTIPLIER
        mixed ^= mixed >> np.uint64(29)
        digests = np.zeros(self.tokens.shape, np.uint64)
        inner = digests[:, : self.length - window + 1]
        for offset in range(window):
            inner *= _MULTIPLIER
            inner += mixed[:, offset : offset + inner.shape[1]]
            inner ^= inner >> np.uint64(32)
        return digests.reshape(-1)


def passage_ids(num_sequences: int, wanted: int) -> np.ndarray:
    """Up to `wanted` of the sequences `0 .. num_sequences - 1`, evenly spread: neighbours tell the same story."""
    wanted = min(wanted, num_sequences)
    return np.arange(wanted, dtype=np.int64) * num_sequences // max(wanted, 1)


def load_passages(corpus: TokenCorpus, split: Split, ids: np.ndarray, special_token_ids: Collection[int]) -> Passages:
    """Read the sequences `ids` (ascending) of a split.

    Raises:
        InputError: the split holds none.
    """
    if not len(ids):
        raise InputError(f"{corpus.place.url} has no sequence in its {split!r} split: give more text")
    parts = []
    for block in np.split(ids, range(READ_BLOCK, len(ids), READ_BLOCK)):
        first = int(block[0])
        parts.append(corpus.sequences(split, first, int(block[-1]) + 1)[block - first])
    return Passages(split, ids, np.concatenate(parts), special_token_ids)
