"""File formats by suffix and first bytes: a closed list, because a file of any other format would be trained on as if its bytes were text."""

import os
import stat
from pathlib import Path
from typing import Literal, NamedTuple

from sae.errors import InputError

Content = Literal["plain", "json_lines", "parquet"]
Compression = Literal["gzip", "zstd"]

JSON_LINES_SUFFIXES = frozenset({".jsonl", ".ndjson", ".json"})
PLAIN_SUFFIXES = frozenset(
    [
        *("", ".txt", ".text", ".md", ".markdown", ".rst", ".org", ".adoc", ".tex", ".bib", ".log", ".srt", ".vtt"),
        *(".html", ".htm", ".css", ".py", ".pyi", ".js", ".jsx", ".ts", ".tsx", ".c", ".h", ".cc", ".cpp", ".cxx", ".hh", ".hpp", ".cu", ".java"),
        *(".kt", ".scala", ".go", ".rs", ".rb", ".php", ".pl", ".r", ".jl", ".lua", ".swift", ".cs", ".hs", ".ml", ".ex", ".erl", ".clj", ".lean"),
        *(".sh", ".bash", ".sql", ".f90", ".m", ".v", ".vhd", ".asm", ".s", ".cmake", ".toml", ".yaml", ".yml", ".ini", ".cfg", ".conf"),
    ]
)
COMPRESSION_SUFFIXES: dict[str, Compression] = {".gz": "gzip", ".zst": "zstd"}
_CONVERT = "Write its text column as Parquet or JSON lines"
_EXTRACT = "Extract the text files first"
ADVICE = {
    **dict.fromkeys((".csv", ".tsv"), "Convert it: python -c \"import pandas; pandas.read_csv('IN.csv').to_parquet('OUT.parquet')\""),
    **dict.fromkeys((".arrow", ".feather"), "For `datasets.save_to_disk`: load_from_disk(DIRECTORY).to_parquet('OUT.parquet')"),
    **dict.fromkeys((".tar", ".tgz", ".zip", ".7z", ".rar"), _EXTRACT),
    **dict.fromkeys((".xz", ".bz2", ".lz4", ".br", ".lzma"), "Decompress it, or compress it with gzip or zstd"),
    **dict.fromkeys((".pdf", ".doc", ".docx", ".odt", ".epub", ".rtf", ".xml"), "Extract its text into a .txt file first"),
    **dict.fromkeys((".xls", ".xlsx", ".db", ".sqlite", ".orc", ".avro", ".h5", ".hdf5", ".npy", ".npz"), _CONVERT),
}
_FIRST_BYTES = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd", "Parquet": b"PAR1"}
_FOREIGN_BYTES = {
    b"version https://git-lfs.github.com/spec/": "a Git LFS pointer instead of the file. Run `git lfs pull` where it was cloned",
    b"%PDF-": "PDF. Extract its text into a .txt file first",
    b"PK\x03\x04": f"a ZIP archive (also .docx and .xlsx). {_EXTRACT}",
    b"7z\xbc\xaf\x27\x1c": f"a 7z archive. {_EXTRACT}",
    b"\xfd7zXZ\x00": "xz. Decompress it, or compress it with gzip or zstd",
    b"BZh": "bzip2. Decompress it, or compress it with gzip or zstd",
    b"ARROW1": f"Arrow. {_CONVERT}",
    b"PAR1": "Parquet. Give it the suffix .parquet",
    b"\x1f\x8b": "gzip. Give it the suffix .gz after that of its content (.txt.gz, .jsonl.gz)",
    b"\x28\xb5\x2f\xfd": "zstd. Give it the suffix .zst after that of its content (.txt.zst, .jsonl.zst)",
    b"\xff\xfe": "UTF-16. Convert it: iconv -f UTF-16 -t UTF-8 IN > OUT",
    b"\xfe\xff": "UTF-16. Convert it: iconv -f UTF-16 -t UTF-8 IN > OUT",
}


class FileFormat(NamedTuple):
    """Format of a file and its reader."""

    content: Content
    compression: Compression | None


def recognise(path: Path) -> FileFormat:
    """The format of a file, by its suffixes; its first bytes must agree.

    Raises:
        InputError: it is no regular file, cannot be opened, or is of a format that is not read.
    """
    _check_name(path)
    suffix, compression = path.suffix.lower(), None
    if suffix in COMPRESSION_SUFFIXES:
        compression, suffix = COMPRESSION_SUFFIXES[suffix], Path(path.stem).suffix.lower()
    if suffix == ".parquet" and compression is None:
        content: Content = "parquet"
    elif suffix in JSON_LINES_SUFFIXES:
        content = "json_lines"
    elif suffix in PLAIN_SUFFIXES or _is_part_of_a_name(suffix):
        content = "plain"
    else:
        advice = ADVICE.get(suffix, "If it is plain text, give it the suffix .txt; else leave it out")
        known = ".txt, .md, .py (and other source code), .jsonl, .parquet"
        raise InputError(f"{shown(path)} is not read as text: {suffix!r} is none of {known}. {advice}")
    _check_first_bytes(path, content, compression)
    return FileFormat(content, compression)


def shown(path: object) -> str:
    """A path in one short line, control characters and bytes that are not UTF-8 escaped."""
    text = str(path)
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= 200 else f"…{text[-200:]}"


def _check_name(path: Path) -> None:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InputError(f"the file name {shown(path)} is not UTF-8. Rename the file") from None
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {shown(path)}: {_reason(error)}. Check the path, a link's target and the permissions") from None
    if not stat.S_ISREG(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "a pipe, socket or device"
        raise InputError(f"{shown(path)} is {kind}. Text is read from regular files: copy it into one")


def _is_part_of_a_name(suffix: str) -> bool:
    """Say whether a suffix is a number or a word as in `README.first draft` or `man.1`, and so says nothing about the format."""
    return suffix[1:].isdigit() or " " in suffix


def _check_first_bytes(path: Path, content: Content, compression: Compression | None) -> None:
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError as error:
        raise InputError(f"cannot read {shown(path)}: {_reason(error)}. Check the path and its permissions") from None
    found = _content_of(head)
    promised = compression or ("Parquet" if content == "parquet" else None)
    if promised is None and found:
        raise InputError(f"{shown(path)} is not read as text. Its content is {found}")
    if promised is not None and not head.startswith(_FIRST_BYTES[promised]) and (head or promised == "Parquet"):
        advice = f"It is {found}" if found else "Rename it, or copy it again"
        raise InputError(f"cannot read {shown(path)}: it is named as {promised}, but its content is not. {advice}")


def _content_of(head: bytes) -> str | None:
    return next((name for magic, name in _FOREIGN_BYTES.items() if head.startswith(magic)), None)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or (str(error) if os.linesep not in str(error) else type(error).__name__)
