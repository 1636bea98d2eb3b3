"""Records that a stage leaves for later stages: JSON objects of a declared type, sealed with a digest over all of their fields.

A reader gets exactly what was written or one error that names the file and the field. `sae.storage.json_objects` seals and parses; the types
here refuse missing, unknown and mistyped fields, also where someone edited an object and computed its digest again.
"""

from typing import Any, TypeVar

from pydantic import ValidationError

from sae.config import Config
from sae.errors import InputError
from sae.storage import Place, to_json

MAX_SHOWN = 80  # characters of a wrong value in a message


class Record(Config):
    """A JSON object that one stage writes and others read."""


R = TypeVar("R", bound=Config)


def put_record(place: Place, key: str, record: Config) -> None:
    """Write a record, sealed."""
    place.put_sealed(key, record.model_dump(mode="json"))


def get_record(place: Place, key: str, kind: type[R]) -> R:
    """Read a record that `put_record` wrote.

    Raises:
        InputError: there is none, it is not JSON, or a field is missing, unknown or of a wrong type.
        CorruptObjectError: it was changed after it was written.
    """
    return as_record(kind, place.get_sealed(key), place.path(key))


def as_record(kind: type[R], content: Any, where: str) -> R:
    """Check the fields of an object that was read from JSON.

    Numbers are not read from text, and `true` is not 1.

    Args:
        kind: type of the record.
        content: its fields.
        where: file or URL, for messages.

    Raises:
        InputError: a field is missing, unknown or of a wrong type; the message names the first one.
    """
    try:
        return kind.model_validate_json(to_json(content), strict=True)
    except ValidationError as error:
        problems = error.errors()
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise InputError(f"{where} is not what this version writes: {_phrase(problems[0])}{more}. Run the stage that writes it again") from None


def _phrase(problem: Any) -> str:
    field = ".".join(map(str, problem["loc"])) or "the object"
    if problem["type"] == "missing":
        return f"field {field} is missing"
    if problem["type"] == "extra_forbidden":
        return f"field {field} is unknown"
    found = repr(problem["input"])
    return f"{field}: {problem['msg'].lower()}, found {found if len(found) <= MAX_SHOWN else found[: MAX_SHOWN - 3] + '...'}"
