"""Closed lists of another library's configuration keys: each is honoured, without effect, bound to certain values, or noted; no other passes.

A key that is on no list may change what the dictionary computes. It is refused, so that no import computes something else than its library.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sae.errors import InputError
from sae.interoperability.reading import SHOWN, shown


@dataclass(frozen=True)
class Bound:
    """Values that a key may have, and the reason why no other is accepted; the reason also says what to do."""

    values: tuple[Any, ...]
    reason: str


@dataclass(frozen=True)
class KeyList:
    """Every known key of one library's configuration.

    Attributes:
        honoured: the reader uses them.
        without_effect: settings of training, logging and hardware, which do not change what a trained dictionary computes.
        bound: keys with an effect that is not supported here, with the values that have none.
        noted: they describe the training data; they are kept in the metadata.
    """

    honoured: frozenset[str]
    without_effect: frozenset[str] = frozenset()
    bound: Mapping[str, Bound] = field(default_factory=dict)
    noted: frozenset[str] = frozenset()

    def check(self, config: Mapping[str, Any], where: str) -> dict[str, Any]:
        """The noted keys with their values.

        Raises:
            InputError: a key is on no list, or has a value whose effect is not supported.
        """
        for key, value in config.items():
            bound = self.bound.get(key)
            if bound is not None and not any(_same(value, allowed) for allowed in bound.values):
                allowed = ", ".join(shown(each) for each in bound.values)
                raise InputError(f"{where}: {key} is {shown(value)}, allowed: {allowed}. {bound.reason}")
            if bound is None and key not in self.honoured | self.without_effect | self.noted:
                near = difflib.get_close_matches(key, self.honoured | self.bound.keys() | self.noted, 1)
                hint = f" (is {near[0]} meant?)" if near else ""
                raise InputError(
                    f"{where}: the key {key[:SHOWN]!r} ({shown(value)}) is unknown{hint}, so it may change what the dictionary computes. "
                    "Remove it if it has no effect"
                )
        return {key: config[key] for key in sorted(config.keys() & self.noted) if config[key] not in (None, "", [], {})}


def names(text: str) -> frozenset[str]:
    """Keys that stand between spaces in a text."""
    return frozenset(text.split())


def _same(value: Any, allowed: Any) -> bool:
    return bool(value == allowed) and isinstance(value, bool) == isinstance(allowed, bool)
