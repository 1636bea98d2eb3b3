"""Tokens and activations in the short form in which the pages carry them."""

from collections.abc import Callable, Sequence

SHARES = 999  # activations are carried as thousandths of the feature's maximum


class TokenNumbers:
    """Numbers the tokens in the order they are met, and keeps their texts."""

    def __init__(self, texts: Sequence[str] | None) -> None:
        self._known = texts or ()
        self._numbers: dict[int, int] = {}
        self.texts: list[str] = []

    def number(self, token: int) -> int:
        """The number of a token of the subject's vocabulary."""
        if token not in self._numbers:
            self._numbers[token] = len(self.texts)
            self.texts.append(self._known[token] if token < len(self._known) else f"⟨{token}⟩")
        return self._numbers[token]


def pairs(values: Sequence[float], maximum: float, to_whole: Callable[[float], int]) -> list[int]:
    """The values above 0 as pairs: index, share of `maximum` in thousandths."""
    # Plain Python: an example has a score of values, nearly all of them 0, and a run has a hundred thousand examples.
    packed: list[int] = []
    for place, value in enumerate(values):
        share = to_whole(value * SHARES / maximum) if value > 0 < maximum else 0
        if share:
            packed += (place, share)
    return packed
