"""Local files of text: found by path, directory or glob, and read in the format that each has."""

import contextlib
import fnmatch
import glob
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from sae.corpus.formats import FileFormat, TextField, decompressed, json_records, parquet_texts, plain_texts, recognise, shown
from sae.corpus.formats.lines import decoded, numbered_lines
from sae.corpus.formats.parquet import check_parquet
from sae.errors import InputError

LINES_CHECKED = 10


def find_files(pattern: str) -> list[tuple[Path, FileFormat]]:
    """The files of one source, sorted by path, each with its format. Files and directories whose name begins with a dot are left out.

    Args:
        pattern: a file, a directory (with all below it), or a glob. A path that exists is taken as it stands, also with `[`, `*` or `?` in it.

    Raises:
        InputError: there is no such file, or one of them is not read as text.
    """
    expanded = os.path.expanduser(pattern)
    try:
        if os.path.isdir(expanded):
            paths = sorted(_below(Path(expanded)))
        elif os.path.lexists(expanded):
            paths = [Path(expanded)]
        else:
            paths = sorted(path for path in _matching(expanded) if not path.is_dir())
    except (OSError, ValueError) as error:
        raise InputError(f"cannot look for {shown(pattern)!r}: {error}. Check the path or glob of `corpus.text`") from None
    if not paths:
        raise InputError(
            f"no file matches {shown(pattern)!r} (looked from {shown(os.getcwd())}; names that begin with a dot are left out). "
            "Check the path or glob of `corpus.text`"
        )
    return _recognised(paths, pattern)


def file_texts(path: Path, file_format: FileFormat, field: str) -> Iterator[tuple[str, str]]:
    """Yield `(name, text)` of each document of a file; a record without text gives an empty one.

    Raises:
        InputError: the file cannot be read, or holds what its format does not allow; the message names the place.
    """
    where = shown(path)
    if file_format.content == "parquet":
        yield from parquet_texts(path, field)
        return
    with _opened(path) as stream:
        chunks = decompressed(stream, file_format.compression, where)
        if file_format.content == "plain":
            yield from plain_texts(chunks, where)
        else:
            yield from TextField(field).texts(json_records(chunks, where), where)


def check_file(path: Path, file_format: FileFormat, field: str) -> None:
    """Read as little of a file as shows whether it has texts: a Parquet schema, records up to the first with a text, or the first lines.

    Raises:
        InputError: as `file_texts`.
    """
    if file_format.content == "parquet":
        check_parquet(path, field)
    elif file_format.content == "json_lines":
        next((text for _, text in file_texts(path, file_format, field) if text), None)
    else:
        with _opened(path) as stream:
            first = islice(decompressed(stream, file_format.compression, shown(path)), 1)
            for number, line in islice(numbered_lines(first, shown(path)), LINES_CHECKED):
                if line.endswith(b"\n"):
                    decoded(line, f"{shown(path)}:{number}")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    with contextlib.ExitStack() as stack:
        try:
            stream = stack.enter_context(open(path, "rb"))
        except OSError as error:
            raise InputError(f"cannot read {shown(path)}: {error.strerror}. Check the path and its permissions") from None
        yield stream


def _below(directory: Path) -> Iterator[Path]:
    """Every file below a directory, links followed, each directory once (a link may lead back)."""
    seen = set()
    for folder, folders, files in os.walk(directory, followlinks=True, onerror=_refuse):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(folder, name) for name in files if not name.startswith("."))


def _matching(pattern: str) -> Iterator[Path]:
    """The paths that match a glob. `**` is not left to `glob`: that follows two links that lead back for ever."""
    parts = Path(pattern).parts
    if "**" not in parts:
        yield from map(Path, glob.iglob(pattern))
        return
    fixed = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    base = Path(*parts[:fixed])
    if base.is_dir():
        yield from (path for path in _below(base) if _matches(path.relative_to(base).parts, parts[fixed:]))


def _matches(names: Sequence[str], wanted: Sequence[str]) -> bool:
    reached = {0}  # how many names the parts so far can stand for
    for part in wanted:
        if part == "**":
            reached = set(range(min(reached), len(names) + 1))
        else:
            reached = {count + 1 for count in reached if count < len(names) and fnmatch.fnmatchcase(names[count], part)}
        if not reached:
            return False
    return len(names) in reached


def _refuse(error: OSError) -> None:
    raise error


def _recognised(paths: list[Path], pattern: str) -> list[tuple[Path, FileFormat]]:
    found, refused = [], []
    for path in paths:
        try:
            found.append((path, recognise(path)))
        except InputError as error:
            if len(paths) == 1:
                raise
            refused.append((path, str(error)))
    if refused:
        others = f" So are {len(refused) - 1} more: {', '.join(shown(path.name) for path, _ in refused[1:4])}." if len(refused) > 1 else ""
        raise InputError(f"{refused[0][1]}.{others} Name the text files of {shown(pattern)!r} by a glob, for example 'DIRECTORY/**/*.txt'")
    return found
