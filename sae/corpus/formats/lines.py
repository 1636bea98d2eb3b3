"""Lines of UTF-8 text with their numbers, from chunks of bytes."""

from collections.abc import Iterable, Iterator

from sae.errors import InputError

MAX_LINE_BYTES = 64 * 2**20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def numbered_lines(chunks: Iterable[bytes], where: str, max_bytes: int = MAX_LINE_BYTES) -> Iterator[tuple[int, bytes]]:
    r"""Yield `(number from 1, line)`, each line with the `\n` that ends it; a byte order mark at the start is left out.

    Raises:
        InputError: a line of more than `max_bytes`.
    """
    rest: list[bytes] = []
    number, size = 1, 0
    for chunk in _without_mark(chunks):
        *complete, last = chunk.split(b"\n")
        for line in complete:
            yield number, b"".join([*rest, line, b"\n"])
            number, rest, size = number + 1, [], 0
        rest.append(last)
        size += len(last)
        if size > max_bytes:
            raise InputError(f"{where}:{number} has more than {max_bytes // 2**20} MiB in one line. Break it into several documents")
    if size:
        yield number, b"".join(rest)


def decoded(line: bytes, where: str) -> str:
    """A line as text.

    Raises:
        InputError: it is not UTF-8, or holds a NUL byte, as no text does.
    """
    if (at := line.find(b"\0")) >= 0:
        raise InputError(f"{where} has a NUL byte at offset {at} of the line, so it is not UTF-8 text. Convert the file to UTF-8, or leave it out")
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where} is not UTF-8: byte {line[error.start]:#04x} at offset {error.start} of the line. "
            "Convert the file, for example with iconv -f WINDOWS-1252 -t UTF-8, or leave it out if it is not text"
        ) from None


def _without_mark(chunks: Iterable[bytes]) -> Iterator[bytes]:
    first = True
    for chunk in chunks:
        yield chunk.removeprefix(_BYTE_ORDER_MARK) if first else chunk
        first = first and not chunk
