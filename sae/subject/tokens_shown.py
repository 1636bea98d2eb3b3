"""The text of tokens, as people and language models are shown it.

A token is bytes of text, and a character may be spread over several tokens. `shown_line` puts tokens that follow each other together: a
character stands at the token that completes it, the tokens before it are the empty string, and what is joined reads as the text.
Outside a line `TokenTexts` shows each token alone, with its spaces, different for each token; a list of tokens shows one that only begins a
character as `‿`.

What is not text stands between `⟦` and `⟧`: special tokens (`⟦<s>⟧`), bytes that no neighbour completes to a character (`⟦0xe6⟧`), tokens
without a text (`⟦9⟧`, the id), and these three marks themselves where a text holds them (`⟦U+27E6⟧`). Invisible characters are left to the
medium: see `sae.visible_text`.
"""

import functools
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, overload

JOINED = "‿"  # in a list of tokens: a token whose character stands at a later one
_MARKS = re.compile("[⟦⟧‿]")
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
# The length of a character in UTF-8 by its first byte (RFC 3629, section 4); other bytes begin none.
_LENGTHS = {
    first: length for length, low, high in ((1, 0x00, 0x7F), (2, 0xC2, 0xDF), (3, 0xE0, 0xEF), (4, 0xF0, 0xF4)) for first in range(low, high + 1)
}


class TokenTexts(Sequence[str]):
    """The vocabulary of a subject: what each token shows as, alone (by index) and in a line (`shown_line`).

    Attributes:
        pieces: the bytes of each token.
        special: tokens that stand for no text.
        bytes_alone: tokens that are one byte of a character by definition, shown alone as that byte (`<0x41>` beside `A`).
    """

    def __init__(self, pieces: Sequence[bytes], special: Collection[int], bytes_alone: Collection[int] = ()) -> None:
        self.pieces, self.special, self.bytes_alone = list(pieces), frozenset(special), frozenset(bytes_alone)
        self._whole = [_marked(piece) if token in special else _text(piece) if piece else f"⟦{token}⟧" for token, piece in enumerate(pieces)]
        self._alone = list[str]()
        seen = set[str]()
        for token, piece in enumerate(self.pieces):
            whole = None if token in bytes_alone else self._whole[token]
            text = "".join(f"⟦0x{byte:02x}⟧" for byte in piece) if token in bytes_alone else "".join(_aligned([piece])) if whole is None else whole
            text = f"{text}⟦{token}⟧" if text in seen else text
            seen.add(text)
            self._alone.append(text)

    def __len__(self) -> int:
        return len(self._alone)

    @overload
    def __getitem__(self, token: int) -> str: ...
    @overload
    def __getitem__(self, token: slice) -> list[str]: ...
    def __getitem__(self, token: int | slice) -> str | list[str]:
        return self._alone[token]

    def line(self, tokens: Sequence[int]) -> list[str]:
        """Texts of tokens that follow each other; see `shown_line`."""
        shown, part = list[str](), list[bytes]()
        for token in tokens:
            known = token < len(self._whole)
            if known and self._whole[token] is None:
                part.append(self.pieces[token])
                continue
            shown += _aligned(part)
            part.clear()
            # No token of whole characters completes a character begun before it.
            shown.append((self._whole[token] or "") if known else f"⟦{token}⟧")
        return shown + _aligned(part)


def shown_line(token_texts: Sequence[str], tokens: Sequence[int]) -> list[str]:
    r"""Texts of tokens that follow each other: joined they read as the text.

    Args:
        token_texts: a subject's vocabulary, or a list of texts that are whole characters each.
        tokens: ids; one beyond the vocabulary shows as its number.

    Example:
        >>> shown_line(TokenTexts([b"a ", b"\xc3", b"\xbc"], ()), [0, 1, 2, 2])
        ['a ', '', 'ü', '⟦0xbc⟧']
    """
    if isinstance(token_texts, TokenTexts):
        return token_texts.line(tokens)
    return [token_texts[token] if token < len(token_texts) else f"⟦{token}⟧" for token in tokens]


def piece_reader(tokenizer: dict[str, Any]) -> Callable[[str], bytes]:
    """Return how the bytes of a token follow from its name, by a tokenizer's own decoder (the content of `tokenizer.json`).

    WordPiece and word-level tokens carry the space that decoding puts before them; WordPiece's clean-up of spaces before punctuation is left
    out, since it would show different tokens as the same.
    """
    steps = _steps(tokenizer.get("decoder")) or _steps(tokenizer.get("pre_tokenizer"), "pretokenizers", ("ByteLevel", "Metaspace"))
    suffixes = [(tokenizer.get("model") or {}).get("end_of_word_suffix"), *(step.get("suffix") for step in steps)]
    # Without a decoder tokens are joined by spaces. Tokens that were added to a vocabulary of bytes are written as text there.
    added = {str(each["content"]) for each in tokenizer.get("added_tokens") or ()}
    return functools.partial(_piece, steps or [{"type": "Words"}], next(filter(None, suffixes), ""), _byte_level_alphabet(), added)


def byte_token(name: str) -> bool:
    """Say whether a token stands for one byte where a vocabulary lacks a character (`<0xE6>`)."""
    return _BYTE_TOKEN.fullmatch(name) is not None


def _steps(part: dict[str, Any] | None, inner: str = "decoders", kinds: Collection[str] = ()) -> list[dict[str, Any]]:
    """The steps of a part of a tokenizer, of some kinds only where they are named."""
    if part is None:
        return []
    if part["type"] == "Sequence":
        return [step for each in part[inner] for step in _steps(each, inner, kinds)]
    return [part] if not kinds or part["type"] in kinds else []


def _piece(steps: list[dict[str, Any]], suffix: str, alphabet: dict[str, int], added: Collection[str], name: str) -> bytes:
    ended = bool(suffix) and name.endswith(suffix)
    text = name[: -len(suffix)] if ended else name
    for step in steps:
        match step["type"]:
            case "ByteFallback" if byte := _BYTE_TOKEN.fullmatch(name):
                return bytes([int(byte[1], 16)])
            case "ByteLevel" if name not in added and all(char in alphabet for char in text):
                return bytes(alphabet[char] for char in text) + b" " * ended
            case "Replace" if isinstance(step["pattern"], dict) and "String" in step["pattern"]:
                text = text.replace(step["pattern"]["String"], step["content"])
            case "Metaspace":
                text = text.replace(step["replacement"], " ")
            case "WordPiece":
                text = text.removeprefix(step["prefix"]) if text.startswith(step["prefix"]) else f" {text}"
            case "Words":
                text = f" {text}"
    return (text + " " * ended).encode("utf-8", "replace")


def _aligned(pieces: Sequence[bytes]) -> list[str]:
    """One text for each piece: characters at the piece that holds their last byte, bytes of none by their number."""
    data = b"".join(pieces)
    owner = [place for place, piece in enumerate(pieces) for _ in piece]
    shown = [""] * len(pieces)
    for start, text in _characters(data):
        shown[owner[start + (len(text.encode()) if text else 1) - 1]] += _escaped(text) if text else f"⟦0x{data[start]:02x}⟧"
    return shown


def _characters(data: bytes) -> Iterator[tuple[int, str]]:
    """Where each character of UTF-8 begins, and it; the empty string for a byte of none."""
    start = 0
    while start < len(data):
        length = _LENGTHS.get(data[start], 1)
        try:
            text = data[start : start + length].decode()
        except UnicodeDecodeError:
            text, length = "", 1
        yield start, text
        start += length


def _text(piece: bytes) -> str | None:
    try:
        return _escaped(piece.decode())
    except UnicodeDecodeError:
        return None


def _marked(piece: bytes) -> str:
    return f"⟦{piece.decode('utf-8', 'replace').strip() or 'empty'}⟧"


def _escaped(text: str) -> str:
    return _MARKS.sub(lambda mark: f"⟦U+{ord(mark[0]):04X}⟧", text)


@functools.cache
def _byte_level_alphabet() -> dict[str, int]:
    """Map each character of a byte-level vocabulary to its byte.

    Reference: the GPT-2 encoder maps printable bytes to themselves and the rest, in order, to code points from 256 on.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + rank): byte for rank, byte in enumerate(others)}
