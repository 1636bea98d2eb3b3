"""Types of values that many configurations share: bounded, and free of what no computation or path can use."""

import re
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field

from sae.config.problems import shown
from sae.config.strict import Computable
from sae.errors import InputError
from sae.urls import check_url

DAY = 86_400.0
WEEK = 7 * DAY
HUB = "hf:"
MAX_TEXT = 4096  # bytes of a path on Linux
Element = TypeVar("Element")

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def as_list(value: Any) -> Any:
    """A single text as a list of one: keys that take a list of texts take one text, too."""
    return [value] if isinstance(value, str) else value


def refuse_repetition(values: list[Element]) -> list[Element]:
    """Return `values`.

    Raises:
        ValueError: an element occurs twice.
    """
    twice = next((value for index, value in enumerate(values) if value in values[:index]), None)
    if twice is not None:
        raise ValueError(f"{shown(twice)} is named twice: name it once")
    return values


def _one_line(text: str) -> str:
    if found := _CONTROL.search(text):
        raise ValueError(f"the character U+{ord(found[0]):04X} at position {found.start()} is a control character or half of one: remove it")
    if not text.strip():
        raise ValueError("the text is blank: give a name")
    return text


def _location(text: str) -> str:
    if text.startswith(HUB):  # a dataset, not a place
        return text
    try:
        check_url(text)
    except InputError as error:
        raise ValueError(str(error)) from None
    return text


def _whole_or_shared(count: float) -> float:
    if count > 1 and not count.is_integer():
        raise ValueError(f"{count:g} GPUs: Ray grants a share of one GPU, or whole ones. Give at most 1, or a whole number")
    return count


def _http(url: str) -> str:
    if not re.match(r"https?://[^/]", url):
        raise ValueError(f"{shown(url)} is no web address: it begins with http:// or https://, such as http://127.0.0.1:8000/v1")
    return url


Line = Annotated[str, Field(min_length=1, max_length=MAX_TEXT), AfterValidator(_one_line)]
"""A line of text without control characters."""
Name = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_one_line)]
"""A short name: of a field, a label, a hookpoint."""
Location = Annotated[Line, AfterValidator(_location)]
"""A path or URL that `sae.storage` takes, or `hf:NAME`, a source of text."""
Locations = Annotated[list[Location], BeforeValidator(as_list)]
"""Paths or URLs; one may be given as text."""
WebAddress = Annotated[Line, AfterValidator(_http)]
"""The address of an HTTP service."""
Real = Annotated[float, Computable()]
"""A number that is 0 or far enough from it to count in float32."""
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""A seed that numpy, torch and scikit-learn all take."""
Gpus = Annotated[Real, Field(ge=0, le=64), AfterValidator(_whole_or_shared)]
"""GPUs of one process: a share of one, or whole ones, as Ray grants them."""
Labels = Annotated[dict[Name, Name], Field(max_length=32)]
"""Labels of a Ray node."""
