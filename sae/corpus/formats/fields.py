"""The field of a record that holds its text, by name or by a path of names (`meta.body`)."""

from collections.abc import Iterable, Iterator
from typing import Any

from sae.errors import InputError

RECORDS_TO_FIND_IT = 1000
_ABSENT = object()


class TextField:
    """The text field of JSON lines and hub datasets.

    A record whose field is absent or null has no text. That is tolerated where other records have some, since real dumps have such records;
    it is an error where none of the first `RECORDS_TO_FIND_IT` has, since then the field's name is wrong.

    Args:
        name: the field; dots lead into inner objects, unless a field has just this name.
        setting: the configuration key that says it, for messages.
    """

    def __init__(self, name: str, setting: str = "corpus.text_field") -> None:
        self.name, self.setting = name, setting

    def texts(self, records: Iterable[tuple[str, Any]], source: str) -> Iterator[tuple[str, str]]:
        """Yield `(name, text)` of each `(name, record)`; a record without text gives an empty one.

        Raises:
            InputError: the field holds something else than text, or no record has it.
        """
        found, number, fields = False, 0, ""
        for number, (where, record) in enumerate(records, 1):
            text = self._text(record, where)
            found = found or text is not None
            fields = fields or ", ".join(map(str, record))[:200]
            if not found and number == RECORDS_TO_FIND_IT:
                break
            yield where, text or ""
        if number and not found:
            raise InputError(f"{source} has no text in field {self.name!r} but the fields {fields}. Set {self.setting}")

    def _text(self, record: Any, where: str) -> str | None:
        if not isinstance(record, dict):
            raise InputError(f"{where} holds a {type(record).__name__}, expected one object a line")
        value = record.get(self.name, _ABSENT)
        if value is _ABSENT:
            value = _at(record, self.name.split("."))
        if value is not None and not isinstance(value, str):
            raise InputError(f"{where} has no text in field {self.name!r} but a value of type {type(value).__name__}. Set {self.setting}")
        return value


def _at(record: Any, path: list[str]) -> Any:
    for name in path:
        record = record.get(name) if isinstance(record, dict) else None
    return record
