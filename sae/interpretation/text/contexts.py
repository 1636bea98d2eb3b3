"""Every run of tokens of the explanation text, numbered once, so that what a feature does after each is one sum per feature.

A *context* of order n is the n tokens that end at a position. A context's parent is the one without its first token:
`numpy import as` -> `import as` -> `as`. Contexts seen fewer than `MIN_SUPPORT` times are left to their parents.
"""

from dataclasses import dataclass

import numpy as np

from sae.interpretation.text.passages import Passages

MIN_SUPPORT = 4  # occurrences in the explanation text
HALF_BLOCK = 8  # consecutive sequences that stay on one side of the cross-validation: neighbours share documents


@dataclass(frozen=True)
class Order:
    """All contexts of one length.

    Attributes:
        ids: the context that ends at each position, `len(parents)` where there is none.
        parents: for each context the number of its parent in the order below (0 at order 1), ascending.
        first_tokens: for each context its first token, the one its parent lacks.
        counts: occurrences in each half of the text, `[contexts, 2]`.
        starts: for each context of the order below, and one more, the first of its children.
    """

    ids: np.ndarray
    parents: np.ndarray
    first_tokens: np.ndarray
    counts: np.ndarray
    starts: np.ndarray

    def children(self, parents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The contexts whose parent is one of `parents`, and for each the index of that one in `parents`."""
        low = self.starts[parents]
        sizes = self.starts[parents + 1] - low
        above = np.repeat(np.arange(len(parents)), sizes)
        return np.arange(sizes.sum()) + np.repeat(low - np.cumsum(sizes) + sizes, sizes), above


class Contexts:
    """The contexts of a text, up to `max_context` tokens long.

    Memory: 4 bytes per token and order, plus 32 bytes per context.
    """

    def __init__(self, passages: Passages, max_context: int) -> None:
        self.halves = ((np.arange(len(passages.tokens)) // HALF_BLOCK) % 2).repeat(passages.length).astype(np.int32)
        self.num_tokens = np.bincount(self.halves[passages.readable], minlength=2).astype(np.float64)
        tokens, self.orders = passages.tokens.reshape(-1).astype(np.int64), list[Order]()
        columns = np.tile(np.arange(passages.length), len(passages.tokens))
        vocabulary = int(tokens.max()) + 1
        suffix, known = np.zeros(len(tokens), np.int64), passages.readable
        for order in range(1, max_context + 1):
            known = known & (columns >= order - 1)
            where = np.flatnonzero(known)
            keys, inverse, counts = np.unique(suffix[where] * vocabulary + tokens[where - order + 1], return_inverse=True, return_counts=True)
            supported = counts >= MIN_SUPPORT
            numbers = np.where(supported, np.cumsum(supported) - 1, -1)[inverse]
            suffix = np.full(len(tokens), -1)
            suffix[where] = numbers
            known = suffix >= 0
            size, parents = int(supported.sum()), keys[supported] // vocabulary
            below = len(self.orders[-1].parents) if self.orders else 1
            cells = suffix[known] * 2 + self.halves[known]
            self.orders.append(
                Order(
                    ids=np.where(known, suffix, size).astype(np.int32),
                    parents=parents,
                    first_tokens=keys[supported] % vocabulary,
                    counts=np.bincount(cells, minlength=2 * size).reshape(size, 2).astype(np.float64),
                    starts=np.searchsorted(parents, np.arange(below + 1)),
                )
            )

    def sums(self, order: Order, positions: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Total of `values`, given at `positions`, after each context of an order, in each half: `[contexts, 2]`."""
        size = len(order.parents)
        cells = order.ids[positions] * 2 + self.halves[positions]
        return np.bincount(cells, weights=values, minlength=2 * size)[: 2 * size].reshape(size, 2)
