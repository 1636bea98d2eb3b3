"""Learning the token graph of a feature: which runs of tokens say most about its activation.

Reference: Neuron to Graph (Foote et al. 2023, arXiv 2305.19911), with two deviations. It learns from a few top snippets by deleting and
replacing tokens in the subject model (`ablation` does that); here every token of the explanation text counts, firing or not, so no negatives need
to be sampled. It keeps a longer context where the activation needs it in one snippet; here where that predicts unseen sequences better.

This one is the default, since it predicts held-out text better: for 231 random features of a TopK dictionary (512 to 4096, 1.5 M activations
of the embedded model; learned on 262,144 tokens, judged on 65,536) the median explanation score is 0.63 against 0.52, F1 of firing 0.33 against
0.20, Pearson over all tokens 0.60 against 0.29: ten strongest examples do not show how often their tokens stand there without the feature. Only
recall (0.22 against 0.26) and Spearman over all tokens (0.20 against 0.25) are better by ablation.
"""

from dataclasses import dataclass

import numpy as np

from sae.interpretation.patterns.token_graph import Pattern, TokenGraph
from sae.interpretation.text.contexts import Contexts

SHRINKAGE = 2.0  # occurrences' worth of trust in the shorter context
MIN_GAIN = 1e-3  # share of the feature's variance that a pattern must explain to be kept
CANDIDATES = 2  # times as many contexts as patterns allowed are looked at closely


@dataclass
class _Candidates:
    """Contexts that may become patterns, and the root as number 0; a parent stands before its children.

    Attributes:
        lineage: the candidates that lead to each, itself included, shorter first; -1 beyond. `[candidates, max_context]`.
        first_tokens: the token that each adds to its parent.
        sums: activation after each, in each half of the text. `[candidates, 2]`.
        counts: occurrences, likewise.
    """

    lineage: np.ndarray
    first_tokens: np.ndarray
    sums: np.ndarray
    counts: np.ndarray


def learn(contexts: Contexts, positions: np.ndarray, values: np.ndarray, max_patterns: int) -> TokenGraph:
    """Learn the graph of a feature from all its firings in the explanation text.

    Patterns are added one at a time, each time the one that most reduces the squared error, until none explains `MIN_GAIN` of the variance.
    The reduction is cross-validated over two halves of the text: with `S_h`, `n_h` the activation and the occurrences of a context in half h,
    `q_h` what the graph so far expects there and `p_h = (S_h + λ q_h) / (n_h + λ)` what it would expect,
    `gain = Σ_h Σ_occurrences (a - q_g)² - (a - p_g)² = Σ_h 2 S_h (p_g - q_g) + n_h (q_g² - p_g²)`, g being the other half. Occurrences that a pattern
    explains no longer count for the shorter patterns that it ends in.

    Args:
        contexts: of the explanation text.
        positions: where the feature fires, flat indices into the text.
        values: how strongly, raw units.
        max_patterns: patterns at most.
    """
    values = values.astype(np.float64)
    halves = np.bincount(contexts.halves[positions], weights=values, minlength=2)
    variance = float(np.square(values).sum() - halves.sum() ** 2 / contexts.num_tokens.sum())
    threshold = max(MIN_GAIN * variance, 1e-12)
    candidates = _find_candidates(contexts, positions, values, threshold, CANDIDATES * max_patterns)
    return _grow(candidates, threshold, max_patterns)


def _gains(sums: np.ndarray, counts: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """The cross-validated gain of each context over what is expected after it so far, `[contexts, 2]` each."""
    ours, theirs = _shrunk(sums, counts, expected)[:, ::-1], expected[:, ::-1]
    return (2 * sums * (ours - theirs) + counts * (np.square(theirs) - np.square(ours))).sum(1)


def _shrunk(sums: np.ndarray, counts: np.ndarray, expected: np.ndarray) -> np.ndarray:
    return (sums + SHRINKAGE * expected) / (counts + SHRINKAGE)


@dataclass
class _Level:
    """Contexts of one length that may matter; `parents` are indices into the level before."""

    parents: np.ndarray
    first_tokens: np.ndarray
    sums: np.ndarray
    counts: np.ndarray
    worth: np.ndarray


def _find_candidates(contexts: Contexts, positions: np.ndarray, values: np.ndarray, threshold: float, limit: int) -> _Candidates:
    """The `limit` contexts that gain most over their parent or over the root, and what leads to them."""
    halves = np.bincount(contexts.halves[positions], weights=values, minlength=2)[None]
    root = halves / np.maximum(contexts.num_tokens, 1)
    ids, expected = np.zeros(1, np.int64), root
    levels = [_Level(ids, ids, halves, contexts.num_tokens[None], np.full(1, np.inf))]
    for order in contexts.orders:
        children, parents = order.children(ids)
        sums, counts = contexts.sums(order, positions, values)[children], order.counts[children]
        # A context and its descendants can explain no more than the squares in it, and those of what is wrongly expected in it.
        energy = contexts.sums(order, positions, np.square(values))[children].sum(1)
        kept = np.flatnonzero(energy + (counts * np.square(expected[parents])).sum(1) >= threshold)
        ids, sums, counts, parents = children[kept], sums[kept], counts[kept], parents[kept]
        worth = np.maximum(_gains(sums, counts, expected[parents]), _gains(sums, counts, root))
        expected = _shrunk(sums, counts, expected[parents])
        levels.append(_Level(parents, order.first_tokens[ids], sums, counts, worth))
    return _best(levels, threshold, limit)


def _best(levels: list[_Level], threshold: float, limit: int) -> _Candidates:
    for above, level in zip(levels[-2::-1], levels[:0:-1], strict=True):
        np.maximum.at(above.worth, level.parents, level.worth)  # a parent is worth what its best child is
    offsets = np.cumsum([0, *(len(level.worth) for level in levels)])
    worth, depths = np.concatenate([level.worth for level in levels]), np.repeat(np.arange(len(levels)), np.diff(offsets))
    ranked = np.lexsort((depths, -worth))[: limit + 1]
    chosen = np.sort(ranked[worth[ranked] >= threshold])
    parents = np.concatenate([offsets[max(depth - 1, 0)] + level.parents for depth, level in enumerate(levels)])
    parents = np.searchsorted(chosen, parents[chosen])
    lineage = np.full((len(chosen), len(levels) - 1), -1)
    for candidate, depth in enumerate(depths[chosen].tolist()):
        if depth:
            lineage[candidate] = lineage[parents[candidate]]
            lineage[candidate, depth - 1] = candidate
    sums, counts, tokens = (np.concatenate([getattr(level, name) for level in levels])[chosen] for name in ("sums", "counts", "first_tokens"))
    return _Candidates(lineage, tokens, sums, counts)


def _grow(candidates: _Candidates, threshold: float, max_patterns: int) -> TokenGraph:
    lineage, sums, counts = candidates.lineage, candidates.sums.copy(), candidates.counts.copy()
    occurrences = counts.sum(1)
    nearest = np.zeros(len(sums), np.int64)  # the longest pattern so far that each candidate ends in
    pooled, expected = np.zeros_like(sums), np.zeros_like(sums)
    pooled[0] = expected[0] = sums[0] / np.maximum(counts[0], 1)
    gained: dict[int, float] = {0: np.inf}
    while len(gained) <= max_patterns:
        gains = _gains(sums, counts, expected[nearest])
        gains[list(gained)] = -np.inf
        best = int(np.argmax(gains))
        path = [node for node in lineage[best].tolist() if node >= 0 and node not in gained]
        if gains[best] < threshold or len(gained) + len(path) > max_patterns + 1:
            break
        for node in path:
            parent = nearest[node]
            pooled[node] = _shrunk(sums[node], counts[node], pooled[parent])
            sums[parent] -= sums[node]
            counts[parent] -= counts[node]
            nearest[(lineage == node).any(1)] = node
            expected[[parent, node]] = _shrunk(sums[[parent, node]], counts[[parent, node]], pooled[[parent, node]])
            gained[node] = float(gains[node])
    return _graph(candidates, gained, occurrences, _combined(sums, counts, candidates))


def _combined(sums: np.ndarray, counts: np.ndarray, candidates: _Candidates) -> np.ndarray:
    """Predict by each candidate, from both halves: the mean over its occurrences that no longer pattern explains."""
    prior = candidates.sums.sum(1) / np.maximum(candidates.counts.sum(1), 1)
    return np.maximum(0.0, (sums.sum(1) + SHRINKAGE * prior) / (counts.sum(1) + SHRINKAGE))


def _graph(candidates: _Candidates, gained: dict[int, float], occurrences: np.ndarray, means: np.ndarray) -> TokenGraph:
    patterns = []
    for node in sorted(gained.keys() - {0}):
        tokens = tuple(int(candidates.first_tokens[each]) for each in candidates.lineage[node].tolist() if each >= 0)[::-1]
        patterns.append(Pattern(tokens, float(means[node]), int(occurrences[node]), gained[node]))
    return TokenGraph(float(means[0]), patterns)
