"""Tokens and activations in the short form in which the pages carry them."""

from collections.abc import Callable, Sequence

from sae.subject.tokens_shown import shown_line

SHARES = 999  # activations are carried as thousandths of the feature's maximum


class TokenNumbers:
    """Numbers the texts of tokens in the order they are met, and keeps them."""

    def __init__(self, texts: Sequence[str] | None) -> None:
        self._known = texts or ()
        self._numbers: dict[str, int] = {}

    def line(self, tokens: Sequence[int]) -> list[int]:
        """The numbers of the texts of tokens that follow each other: a token shows differently where it is a part of a character."""
        return [self._numbers.setdefault(text, len(self._numbers)) for text in shown_line(self._known, tokens)]

    @property
    def texts(self) -> list[str]:
        """The texts, by their number."""
        return list(self._numbers)


def pairs(values: Sequence[float], maximum: float, to_whole: Callable[[float], int]) -> list[int]:
    """The values above 0 as pairs: index, share of `maximum` in thousandths."""
    # Plain Python: an example has a score of values, nearly all of them 0, and a run has a hundred thousand examples.
    packed: list[int] = []
    for place, value in enumerate(values):
        share = to_whole(value * SHARES / maximum) if value > 0 < maximum else 0
        if share:
            packed += (place, share)
    return packed
