"""An explanation without a language model: a small tree of tokens that says how strongly a feature fires after which tokens.

The root holds what to expect anywhere; a child adds the token that must stand at the end; its child the token before that, and so on. The
prediction at a token is that of the deepest node whose tokens match. `graph_learning` makes one.

Reference: Neuron to Graph (Foote et al. 2023, arXiv 2305.19911), whose trie of tokens this is.
"""

from dataclasses import dataclass

import numpy as np

IGNORED = -1  # in a pattern: whatever stands there


@dataclass(frozen=True)
class Pattern:
    """A node of the graph.

    Attributes:
        tokens: what must stand there, the firing token last; `IGNORED` where it does not matter.
        mean: the activation to expect at the last of them, where no longer pattern matches.
        count: occurrences in the explanation text.
        gain: how much of the squared error it explained when it was added (`graph_learning`).
    """

    tokens: tuple[int, ...]
    mean: float
    count: int
    gain: float


class TokenGraph:
    """A learned explanation.

    Attributes:
        default: the activation to expect where no pattern matches, raw units.
        patterns: shorter ones before the longer ones that end in them.
        means: the activation to expect at each node.
    """

    def __init__(self, default: float, patterns: list[Pattern]) -> None:
        self.default, self.patterns = default, patterns
        nodes = {(): 0} | {pattern.tokens: node for node, pattern in enumerate(patterns, 1)}
        edges = sorted((nodes[pattern.tokens[1:]] << 32 | pattern.tokens[0], node) for node, pattern in enumerate(patterns, 1))
        self._keys = np.array([key for key, _ in edges], np.int64)
        self._children = np.array([node for _, node in edges], np.int64)
        self.means = np.array([default, *(pattern.mean for pattern in patterns)], np.float32)
        self._depth = max((len(pattern.tokens) for pattern in patterns), default=0)

    def predict(self, tokens: np.ndarray) -> np.ndarray:
        """The activation expected at each token of `tokens` `[texts, length]`, knowing only the tokens before it in its row."""
        return self.means[self.nodes(tokens)].reshape(tokens.shape)

    def nodes(self, tokens: np.ndarray) -> np.ndarray:
        """The deepest node that matches at each token, flat: 0 is the root, others are one more than their index in `patterns`."""
        flat = tokens.reshape(-1)
        state = self._first_states(flat)
        alive = np.flatnonzero(state)
        for depth in range(1, self._depth):
            alive = alive[alive % tokens.shape[1] >= depth]
            keys = state[alive] << 32 | flat[alive - depth]
            found = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
            matched = self._keys[found] == keys
            alive = alive[matched]
            state[alive] = self._children[found[matched]]
        return state

    def _first_states(self, flat: np.ndarray) -> np.ndarray:
        firsts = self._keys < 1 << 32
        table = np.zeros(max(int(flat.max(initial=0)), int(self._keys[firsts].max(initial=0))) + 1, np.int64)
        table[self._keys[firsts]] = self._children[firsts]
        return table[flat]


class WildcardGraph(TokenGraph):
    """A graph whose patterns may ignore tokens. Of several that match, the one that names most tokens holds, of equal ones the more active.

    Attributes:
        default: the activation to expect where no pattern matches, raw units.
        patterns: those that give way before those that they give way to.
        means: the activation to expect at each node.
    """

    def __init__(self, default: float, patterns: list[Pattern]) -> None:
        self.default = default
        self.patterns = sorted(patterns, key=lambda pattern: (sum(token != IGNORED for token in pattern.tokens), pattern.mean, pattern.tokens))
        self.means = np.array([default, *(pattern.mean for pattern in self.patterns)], np.float32)

    def nodes(self, tokens: np.ndarray) -> np.ndarray:
        """The node that holds at each token, flat: 0 is the root, others are one more than their index in `patterns`."""
        flat, length = tokens.reshape(-1), tokens.shape[1]
        state = np.zeros(len(flat), np.int64)
        places: dict[int, np.ndarray] = {}
        for node, pattern in enumerate(self.patterns, 1):
            last = pattern.tokens[-1]
            if last not in places:
                places[last] = np.flatnonzero(flat == last)
            found = places[last]
            found = found[found % length >= len(pattern.tokens) - 1]
            for back, token in enumerate(pattern.tokens[-2::-1], 1):
                if token != IGNORED:
                    found = found[flat[found - back] == token]
            state[found] = node
        return state
