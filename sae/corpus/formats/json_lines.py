"""JSON lines: one object a line, parsed strictly."""

from collections.abc import Iterable, Iterator
from typing import Any

from sae.corpus.formats.lines import decoded, numbered_lines
from sae.errors import InputError
from sae.storage import parse_json

_ONE_OBJECT = 'expected one object a line, as in {"text": "…"}. Correct the line, or leave it out'
_AN_ARRAY = "expected one object a line. If the file is a JSON array, convert it: jq -c '.[]' IN.json > OUT.jsonl"


def json_records(chunks: Iterable[bytes], where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield `(where:LINE, object)` of each line that is not blank.

    Raises:
        InputError: a line is not UTF-8, not JSON, or no object.
    """
    for number, line in numbered_lines(chunks, where):
        if line.isspace():
            continue
        place = f"{where}:{number}"
        text = decoded(line, place)
        advice = _AN_ARRAY if number == 1 and text.startswith("[") else _ONE_OBJECT
        value = parse_json(text, place, advice[0].upper() + advice[1:])
        if not isinstance(value, dict):
            raise InputError(f"{place} holds a {type(value).__name__}, {advice}")
        yield place, value
