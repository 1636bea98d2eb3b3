"""Bounded reading of flatbuffers, the form of the metadata in an Arrow file.

Every offset and length comes from the file, so each is compared with the bytes that are there before it is followed.

Reference: https://flatbuffers.dev/internals and `format/{File,Message,Schema}.fbs` of Apache Arrow.
"""

import struct
from typing import Any

MOST_TABLES = 64


class ArrowFileError(ValueError):
    """Bytes that are not the Arrow file they are expected to be; the message is a reason, without the file's name."""


class Table:
    """A table of a flatbuffer.

    Args:
        data: the whole flatbuffer.
        at: where the table lies in it; null takes the root table.

    Raises:
        ArrowFileError: it reaches beyond the data.
    """

    __slots__ = ("_at", "_data", "_places")

    def __init__(self, data: memoryview, at: int | None = None) -> None:
        self._data = data
        self._at = unpack("<I", data, 0)[0] if at is None else at
        directory = self._at - unpack("<i", data, self._at)[0]
        size = unpack("<H", data, directory)[0]
        if size < 4:
            raise ArrowFileError("its metadata is damaged")
        self._places = unpack(f"<{(size - 4) // 2}H", data, directory + 4)

    def number(self, field: int, form: str, default: int = 0) -> int:
        """A number, in the notation of `struct`; `default` where the field is left out."""
        at = self._place(field)
        return default if at is None else int(unpack(form, self._data, at)[0])

    def table(self, field: int) -> "Table | None":
        """A table; None where the field is left out."""
        at = self._place(field)
        return None if at is None else Table(self._data, self._follow(at))

    def tables(self, field: int) -> "list[Table]":
        """A vector of tables; empty where the field is left out."""
        start, stop = self._span(field, 4)
        if stop - start > 4 * MOST_TABLES:  # they may all be one, whose own tables are that one again
            raise ArrowFileError(f"its metadata has more than {MOST_TABLES} columns or notes")
        return [Table(self._data, self._follow(at)) for at in range(start, stop, 4)]

    def structs(self, field: int, form: str) -> list[tuple[Any, ...]]:
        """A vector of structs, each in the notation of `struct`; empty where the field is left out."""
        start, stop = self._span(field, struct.calcsize(form))
        return list(struct.iter_unpack(form, self._data[start:stop]))

    def text(self, field: int) -> bytes:
        """A string; empty where the field is left out."""
        start, stop = self._span(field, 1)
        return bytes(self._data[start:stop])

    def _span(self, field: int, item_bytes: int) -> tuple[int, int]:
        at = self._place(field)
        if at is None:
            return 0, 0
        start = self._follow(at)
        stop = start + 4 + unpack("<I", self._data, start)[0] * item_bytes
        if stop > len(self._data):
            raise ArrowFileError("its metadata is damaged")
        return start + 4, stop

    def _follow(self, at: int) -> int:
        return at + int(unpack("<I", self._data, at)[0])

    def _place(self, field: int) -> int | None:
        offset = self._places[field] if field < len(self._places) else 0
        return self._at + offset if offset else None


def unpack(form: str, data: memoryview, at: int) -> tuple[Any, ...]:
    """`struct.unpack_from` that refuses what lies outside of `data`.

    Raises:
        ArrowFileError: there are not as many bytes at `at`.
    """
    if at < 0:  # which `struct` takes from the end
        raise ArrowFileError("its metadata is damaged")
    try:
        return struct.unpack_from(form, data, at)
    except struct.error:
        raise ArrowFileError("its metadata is damaged") from None
