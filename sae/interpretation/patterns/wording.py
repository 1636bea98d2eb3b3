"""A token graph in words, for people, and as JSON, for programs."""

import itertools
import json
from collections.abc import Sequence
from typing import Any

from sae.interpretation.patterns.token_graph import IGNORED, Pattern, TokenGraph
from sae.subject.tokens_shown import shown_line
from sae.visible_text import visible

TOKENS_NAMED = 6
CONTEXTS_NAMED = 3
ONLY_IN_CONTEXT = 0.2  # a token that alone predicts less than this share of its best context is named with its contexts only


def explain(graph: TokenGraph, token_texts: Sequence[str]) -> str:
    """One sentence: which tokens, in which context, and the activation to expect there.

    Example:
        >>> graph = TokenGraph(0.0, [Pattern((2,), 1.0, 9, 5.0), Pattern((1, 2), 4.0, 3, 9.0), Pattern((3,), 2.5, 4, 6.0)])
        >>> explain(graph, ["", "from", " numpy", " np"])
        'Fires on ` numpy` (1.0), more after `from` (4.0); ` np` (2.5).'
    """
    groups: dict[int, list[Pattern]] = {}
    for pattern in graph.patterns:
        groups.setdefault(pattern.tokens[-1], []).append(pattern)
    firing = [group for group in groups.values() if max(pattern.mean for pattern in group) > 2 * graph.default]
    if not firing:
        return f"No token pattern predicts it; it fires with mean {_number(graph.default)} anywhere."
    firing.sort(key=lambda group: -max(pattern.gain for pattern in group))
    named = [_clause(group, token_texts) for group in firing[:TOKENS_NAMED]]
    more = f"; and on {len(firing) - TOKENS_NAMED} other tokens" if len(firing) > TOKENS_NAMED else ""
    return f"Fires on {'; '.join(named)}{more}."


def patterns_json(graph: TokenGraph, token_texts: Sequence[str]) -> str:
    """All that `explain` shortens, strongest pattern first; `records` describes the fields."""
    patterns: list[dict[str, Any]] = [
        {
            "tokens": list(pattern.tokens),
            "texts": _texts(pattern.tokens, token_texts),
            "mean": _rounded(pattern.mean),
            "count": pattern.count,
        }
        for pattern in sorted(graph.patterns, key=lambda pattern: -pattern.mean)
    ]
    return json.dumps({"default": _rounded(graph.default), "patterns": patterns}, ensure_ascii=False)


def _clause(group: list[Pattern], token_texts: Sequence[str]) -> str:
    single = len(group[0].tokens) == 1
    alone = group[0] if single else Pattern(group[0].tokens[-1:], 0.0, 0, 0.0)
    longer = sorted(group[single:], key=lambda pattern: -pattern.gain)
    name = _quoted(alone.tokens[-1:], token_texts)
    least = max(alone.mean, ONLY_IN_CONTEXT * max((pattern.mean for pattern in longer), default=0.0))
    stronger = [pattern for pattern in longer if pattern.mean > least][:CONTEXTS_NAMED]
    weaker = [pattern for pattern in longer if pattern.mean < alone.mean / 2][:CONTEXTS_NAMED]
    if stronger and alone.mean < ONLY_IN_CONTEXT * stronger[0].mean:
        if all(_completes(pattern, token_texts) for pattern in stronger):
            return ", ".join(f"{_quoted(pattern.tokens, token_texts)} ({_number(pattern.mean)})" for pattern in stronger)
        return f"{name} {_listed(stronger, token_texts)}"
    parts = [f"{name} ({_number(alone.mean)})"]
    parts += [f"more {_listed(stronger, token_texts)}"] if stronger else []
    parts += [f"less {_listed(weaker, token_texts)}"] if weaker else []
    return ", ".join(parts)


def _listed(patterns: list[Pattern], token_texts: Sequence[str]) -> str:
    """The contexts of a token: what it follows, or the character that it completes."""
    phrases = []
    for pattern in patterns:
        completes = _completes(pattern, token_texts)
        text = _quoted(pattern.tokens if completes else pattern.tokens[:-1], token_texts)
        phrases.append(("in " if completes else "after ", f"{text} ({_number(pattern.mean)})"))
    groups = itertools.groupby(sorted(phrases, key=lambda phrase: phrase[0] == "in "), key=lambda phrase: phrase[0])
    return ", ".join(word + ", ".join(text for _, text in group) for word, group in groups)


def _completes(pattern: Pattern, token_texts: Sequence[str]) -> bool:
    """Say whether the last token of a pattern shows as a character only with the tokens before it."""
    return _texts(pattern.tokens, token_texts)[-1] != _texts(pattern.tokens[-1:], token_texts)[-1]


def _quoted(tokens: Sequence[int], token_texts: Sequence[str]) -> str:
    return "`" + visible("".join(_texts(tokens, token_texts))).replace("`", "ˋ") + "`"


def _texts(tokens: Sequence[int], token_texts: Sequence[str]) -> list[str]:
    """The texts of a pattern's tokens; those between two that the pattern ignores follow each other."""
    texts = list[str]()
    for ignored, group in itertools.groupby(tokens, lambda token: token == IGNORED):
        run = list(group)
        texts += ["…"] * len(run) if ignored else shown_line(token_texts, run)
    return texts


def _number(value: float) -> str:
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
