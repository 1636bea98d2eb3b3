"""Plain text: a file is one document, or several between lines that hold nothing but `<|endoftext|>`."""

from collections.abc import Iterable, Iterator

from sae.corpus.formats.lines import decoded, numbered_lines
from sae.errors import InputError

SEPARATOR = "<|endoftext|>"
MAX_DOCUMENT_BYTES = 2**30
_SEPARATOR_LINE = SEPARATOR.encode()


def plain_texts(chunks: Iterable[bytes], where: str) -> Iterator[tuple[str, str]]:
    r"""Yield `(name, text)`: the name is `where`, or `where:LINE` after a separator. Line ends become `\n`.

    Raises:
        InputError: it is not UTF-8, holds a NUL byte, or a document is longer than `MAX_DOCUMENT_BYTES`.
    """
    lines: list[str] = []
    name, size = where, 0
    for number, line in numbered_lines(chunks, where, MAX_DOCUMENT_BYTES):
        if line.strip() == _SEPARATOR_LINE:
            yield name, _document(lines)
            name, lines, size = f"{where}:{number + 1}", [], 0
            continue
        lines.append(decoded(line, f"{where}:{number}"))
        size += len(line)
        if size > MAX_DOCUMENT_BYTES:
            raise InputError(f"{name} is longer than 1 GiB. Divide it into several files, or into documents by lines of {SEPARATOR}")
    yield name, _document(lines)


def _document(lines: list[str]) -> str:
    return "".join(lines).replace("\r\n", "\n").replace("\r", "\n")
