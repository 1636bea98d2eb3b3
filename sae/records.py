"""Records that a stage leaves for later stages: JSON objects of a declared type, sealed with a digest over all of their fields.

A reader gets exactly what was written or one error that names the file and the field. `sae.storage.json_objects` seals and parses; the types
here refuse missing, unknown and mistyped fields, also where someone edited an object and computed its digest again.
"""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import pyarrow as pa
from pydantic import ValidationError

from sae.config import Config
from sae.errors import CorruptObjectError, InputError
from sae.storage import Place, sha256_hex, to_json

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


def as_record(kind: type[R], content: Any, where: str, *, may_lack: bool = False) -> R:
    """Check the fields of an object that was read from JSON: the record holds what the object holds, and nothing else.

    Numbers are not read from text, `true` is not 1, and no default takes the place of a field.

    Args:
        kind: type of the record.
        content: its fields.
        where: file or URL, for messages.
        may_lack: fields that have a default may be missing.

    Raises:
        InputError: a field is missing, unknown or of a wrong type; the message names the first one.
    """
    try:
        record = kind.model_validate_json(to_json(content), strict=True)
        problem = _changed_by_reading(content, record.model_dump(mode="json"), may_lack)
    except ValidationError as error:
        problem = _phrase(error.errors()[0])
    if problem:
        raise InputError(f"{where} is not what this version writes: {problem}. Run the stage that writes it again")
    return record


def check_name(found: str, expected: str, where: str) -> None:
    """Refuse a record that lies where another one belongs.

    Raises:
        CorruptObjectError: the name in the record is not that of its directory or file.
    """
    if found != expected:
        raise CorruptObjectError(f"{where} is of {found[:MAX_SHOWN]!r}, and its place is that of {expected!r}. Copy the right one there")


def digests_of(place: Place, keys: Iterable[str]) -> dict[str, str]:
    """SHA-256 of objects, by key."""
    return {key: sha256_hex(place.open_buffer(key)) for key in keys}


def check_objects(place: Place, digests: Mapping[str, str], said_by: str) -> None:
    """Refuse objects that are not those a record names.

    Args:
        place: where they lie.
        digests: SHA-256 of each by key.
        said_by: URL of the record, for the message.

    Raises:
        CorruptObjectError: an object was changed or lost.
    """
    for key, digest in digests.items():
        open_proved(place, key, digest, said_by)


def open_proved(place: Place, key: str, digest: str | None, said_by: str) -> pa.Buffer:
    """An object whose SHA-256 is the one that a record names.

    Raises:
        CorruptObjectError: it was changed or lost, or the record does not name it.
    """
    again = "Copy both again, or run the stage that writes them again"
    if digest is None:
        raise CorruptObjectError(f"{said_by} does not name {place.path(key)}: it is of another run. {again}")
    try:
        buffer = place.open_buffer(key)
    except InputError:
        raise CorruptObjectError(f"{place.path(key)} is missing, and {said_by} names it. {again}") from None
    if (found := sha256_hex(buffer)) != digest:
        raise CorruptObjectError(f"{place.path(key)} has the digest {found[:12]}…, and {said_by} names {digest[:12]!r}. {again}")
    return buffer


def _changed_by_reading(content: Any, record: Any, may_lack: bool, path: str = "") -> str | None:
    """The first field in which an object and the record read from it differ, as a phrase; None where they are equal."""
    if isinstance(record, dict) and isinstance(content, dict):
        for name, value in record.items():
            where = f"{path}{name}"
            if name not in content and not may_lack:
                return f"field {_path(where)} is missing"
            if name in content and (problem := _changed_by_reading(content[name], value, may_lack, f"{where}.")):
                return problem
        return None
    if isinstance(record, list) and isinstance(content, list):
        pairs = enumerate(zip(content, record, strict=True))
        return next((problem for place, (found, value) in pairs if (problem := _changed_by_reading(found, value, may_lack, f"{path}{place}."))), None)
    return None if content == record else f"field {_path(path.rstrip('.'))}: expected {_shortened(record)}, found {_shortened(content)}"


def _path(fields: str) -> str:
    """Names of fields, which may come from the object itself, in one short line."""
    shown = fields if fields.isprintable() else repr(fields)
    return shown if len(shown) <= MAX_SHOWN else shown[: MAX_SHOWN - 3] + "..."


def _shortened(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= MAX_SHOWN else shown[: MAX_SHOWN - 3] + "..."


def _phrase(problem: Any) -> str:
    field = _path(".".join(map(str, problem["loc"]))) or "the object"
    if problem["type"] == "missing":
        return f"field {field} is missing"
    if problem["type"] == "extra_forbidden":
        return f"field {field} is unknown"
    return f"{field}: {problem['msg'].lower()}, found {_shortened(problem['input'])}"
