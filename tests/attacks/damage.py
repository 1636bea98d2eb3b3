"""What may have become of one file: cut, padded, altered, exchanged, gone, or something that is no file."""

import gzip
import json
import os
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.altered import some_alterations

NUMBERS = (-1, 0, 1, 4096, 2**20, 2**31 - 1, 2**40, 2**63 - 1, -(2**63))
VALUES = (None, "x", "", {}, [], True, False, -5, 0, 10**30, 0.5, -0.0, 1e308, [[]], "\ud83d", "../../x", "a\x1b[2Jb\nc", ["x"], {"digest": "0" * 64})
DEPTH, LONG = 200_000, 10**6


@dataclass(frozen=True)
class Damage:
    """One change of one file.

    Attributes:
        kind: what was done, in a few words.
        apply: does it to the file at a path.
        also: another file that it changes, relative to the run's surroundings.
    """

    kind: str
    apply: Callable[[Path], object]
    also: str = ""


def of_bytes(draw: random.Random) -> Iterator[Damage]:
    """What a full disk, a broken copy or a bad sector leaves."""
    for share in (0.0, 0.5, 0.99):
        yield Damage(f"cut at {share:.0%}", lambda path, share=share: path.write_bytes((data := path.read_bytes())[: int(len(data) * share)]))
    yield Damage("a byte less", lambda path: path.write_bytes(path.read_bytes()[:-1]))
    yield Damage("padded", lambda path: path.write_bytes(path.read_bytes() + bytes(512)))
    yield Damage("twice over", lambda path: path.write_bytes(path.read_bytes() * 2))
    for place in ("in its beginning", "somewhere", "in its end"):
        seed = draw.getrandbits(32)
        yield Damage(f"a bit flipped {place}", lambda path, place=place, seed=seed: path.write_bytes(_flipped(path.read_bytes(), place, seed)))
    seed = draw.getrandbits(32)
    yield Damage("a block of zeros", lambda path, seed=seed: path.write_bytes(_zeroed(path.read_bytes(), seed)))
    yield Damage("all zeros", lambda path: path.write_bytes(bytes(path.stat().st_size)))
    yield Damage("random bytes", lambda path, seed=seed: path.write_bytes(random.Random(seed).randbytes(path.stat().st_size)))


def of_names() -> Iterator[Damage]:
    """What a careless hand or another program leaves under its name."""
    yield Damage("deleted", lambda path: path.unlink())
    yield Damage("a directory", lambda path: (path.unlink(), path.mkdir()))
    yield Damage("a link to nothing", lambda path: (path.unlink(), path.symlink_to("nothing")))
    yield Damage("a link to itself", lambda path: (path.unlink(), path.symlink_to(path.name)))
    yield Damage("a link to its directory", lambda path: (path.unlink(), path.symlink_to(".")))
    yield Damage("a pipe", lambda path: (path.unlink(), os.mkfifo(path)))
    yield Damage("/dev/zero", lambda path: (path.unlink(), path.symlink_to("/dev/zero")))


def of_others(others: list[Path]) -> Iterator[Damage]:
    """Another file's content in its place, and an exchange of the two. `others` are relative to the working directory."""
    for other in others:
        yield Damage(f"content of {other.name}", lambda path, other=other: shutil.copyfile(Path.cwd() / other, path))
        yield Damage(f"exchanged with {other.name}", lambda path, other=other: _exchange(path, Path.cwd() / other), str(other))


def of_json(data: bytes, draw: random.Random, most: int) -> Iterator[Damage]:
    """One value altered, and one value that no parser should take."""
    text = data.decode()
    for altered in some_alterations(draw, most, json.loads(data), others=VALUES, most=2):
        yield Damage("a value altered", lambda path, altered=altered: path.write_text(json.dumps(altered)))
    for altered in some_alterations(draw, most, json.loads(data), most=1):
        yield Damage("a field altered or gone", lambda path, altered=altered: path.write_text(json.dumps(altered)))
    for name, bad in _BAD_JSON.items():
        yield Damage(name, lambda path, bad=bad: path.write_bytes(_put_in(text, bad, draw.random()).encode("utf-8", "surrogatepass")))
    yield Damage("a list around it", lambda path: path.write_text(f"[{text}]"))
    yield Damage("not UTF-8", lambda path: path.write_bytes(data.decode().encode("utf-16")))
    yield Damage("a mark of byte order", lambda path: path.write_bytes(b"\xef\xbb\xbf" + data))
    yield Damage("written anew", lambda path: path.write_text(json.dumps(json.loads(data), indent=4)))


_BAD_JSON = {
    "NaN": "NaN", "infinity": "1e999", "nested deeply": "[" * DEPTH + "]" * DEPTH, "half a pair": '"\\ud83d"', "5,000 digits": "9" * 5000,
    "a long text": f'"{"x" * LONG}"',
}  # fmt: skip


def of_numbers(data: bytes, draw: random.Random, most: int) -> Iterator[Damage]:
    """A number of the binary metadata set to another: of Arrow, Parquet and safetensors, at their beginning and end."""
    places = sorted({*range(0, min(len(data) - 8, 1024), 4), *range(max(0, len(data) - 1032) // 4 * 4, len(data) - 8, 4)})
    for place in draw.sample(places, min(most, len(places))):
        value = struct.pack("<q", draw.choice(NUMBERS))[: draw.choice((4, 8))]
        yield Damage("a number of its metadata", lambda path, place=place, value=value: path.write_bytes(_patched(path.read_bytes(), place, value)))


def of_text() -> Iterator[Damage]:
    """Text that is none, or expands without end."""
    for name, data in _BAD_TEXT.items():
        yield Damage(name, lambda path, data=data: path.write_bytes(gzip.compress(data()) if path.suffix == ".gz" else data()))
    yield Damage("a gzip bomb", lambda path: path.write_bytes(gzip.compress(bytes(2**28), 1)))
    yield Damage("gzip within", lambda path: path.write_bytes(gzip.compress(path.read_bytes())))


_BAD_TEXT: dict[str, Callable[[], bytes]] = {
    "latin-1": lambda: '{"text": "caf\xe9", "label": "caf\xe9"}\n'.encode("latin-1") * 20,
    "UTF-16": lambda: '{"text": "some words", "label": "x"}\n'.encode("utf-16"),
    "half a pair": lambda: b'{"text": "a \\ud83d b", "label": "x"}\n',
    "nested deeply": lambda: b'{"text": ' + b"[" * DEPTH + b"]" * DEPTH + b"}\n",
    "text that is a number": lambda: b'{"text": 12, "label": 3}\n',
    "a line without end": lambda: b'{"text": "' + b"x" * (2**26),
    "NUL bytes": lambda: b"\0" * 4096,
    "a pickle": lambda: b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x05hello\x94.",
    "no line at all": lambda: b"\n\n",
    "the same key twice": lambda: b'{"text": "one", "text": "two", "label": "x", "label": "y"}\n' * 20,
    "a pointer of git-lfs": lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n",
}


def _flipped(data: bytes, place: str, seed: int) -> bytes:
    size, drawn = len(data), random.Random(seed)
    low, high = {"in its beginning": (0, min(64, size)), "somewhere": (0, size), "in its end": (max(0, size - 64), size)}[place]
    changed = bytearray(data)
    if size:
        changed[drawn.randrange(low, high)] ^= 1 << drawn.randrange(8)
    return bytes(changed)


def _zeroed(data: bytes, seed: int) -> bytes:
    start = random.Random(seed).randrange(max(1, len(data) - 64))
    return data[:start] + bytes(min(64, len(data) - start)) + data[start + 64 :]


def _patched(data: bytes, place: int, value: bytes) -> bytes:
    return data[:place] + value + data[place + len(value) :]


def _put_in(text: str, bad: str, share: float) -> str:
    """`text` with one of its values replaced."""
    colons = [index + 1 for index, letter in enumerate(text) if letter == ":"]
    start = colons[int(share * len(colons))] if colons else 0
    ends = [found for found in (text.find(mark, start) for mark in ",}\n") if found > 0]
    return text[:start] + bad + text[min(ends, default=len(text)) :]


def _exchange(path: Path, other: Path) -> None:
    kept = path.read_bytes()
    shutil.copyfile(other, path)
    other.write_bytes(kept)


def damages(path: Path, others: list[Path], draw: random.Random, most: int) -> list[Damage]:
    """All damage that fits a file of this kind.

    Args:
        path: the whole file.
        others: files of the same run that could be taken for it, relative to the run's surroundings.
        draw: for what is drawn.
        most: of altered values and numbers.
    """
    found = [*of_bytes(draw), *of_names(), *of_others(others)]
    data = path.read_bytes()
    if path.suffix == ".json":
        found += of_json(data, draw, most)
    if path.suffix in (".arrow", ".parquet", ".safetensors"):
        found += of_numbers(data, draw, most)
    if path.suffix in (".txt", ".jsonl", ".gz") and path.stem not in ("training", "events"):
        found += of_text()
    return found
