"""The error in the body of a response: words, codes and status, wherever a server put them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sae.storage import without_surrogates

DEEPEST = 5


@dataclass(frozen=True)
class EndpointError:
    """The facts of an error object.

    Attributes:
        words: for people.
        codes: all codes, types and reasons, in lower case.
        status: of HTTP, as the body names it.
        filtered: whether it lists the reasons of a filter of texts.
    """

    words: str
    codes: frozenset[str]
    status: int | None
    filtered: bool


def error_in(content: Any) -> EndpointError | None:
    """The error that a body holds, in one of the places where servers put it."""
    if isinstance(content, list):
        content = content[0] if content and isinstance(content[0], dict) and "error" in content[0] else None
    if not isinstance(content, dict):
        return None
    choices = content.get("choices")
    first = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    found = content.get("error") or content.get("errors") or first.get("error")
    whole = content.get("object") == "error" or content.get("type") == "error" or (choices is None and any(map(content.get, ("message", "detail"))))
    if not found and not whole:
        return None
    facts = [
        *_facts(found),
        *(_facts({name: value for name, value in content.items() if name not in ("choices", "usage")}) if choices is None else ()),
    ]
    words = next((value for name, value in facts if name == "words"), "")
    codes = frozenset(value.lower() for name, value in facts if name == "code")
    statuses = [int(code) for code in codes if re.fullmatch(r"[3-5]\d\d", code)]
    return EndpointError(without_surrogates(words), codes, statuses[0] if statuses else None, any(name == "reasons" for name, _ in facts))


def _facts(error: Any, depth: int = 0) -> Iterator[tuple[str, str]]:
    """Words, codes and reasons of an error, the outer ones first."""
    if isinstance(error, str):
        yield "words", error
    elif isinstance(error, list) and depth < DEEPEST:
        for each in error[:5]:
            yield from _facts(each, depth + 1)
    elif isinstance(error, dict):
        for name in ("message", "msg", "detail", "title", "error_message"):
            if isinstance(error.get(name), str) and error[name]:
                yield "words", error[name]
        for name in ("code", "type", "status", "reason", "error_type", "error_code"):
            if isinstance(error.get(name), str | int) and not isinstance(error[name], bool):
                yield "code", str(error[name])
        if error.get("reasons") or error.get("flagged_input"):
            yield "reasons", ""
        for name in ("error", "errors", "detail", "details", "metadata", "innererror") if depth < DEEPEST else ():
            if isinstance(error.get(name), dict | list) or (name == "error" and isinstance(error.get(name), str)):
                yield from _facts(error[name], depth + 1)
