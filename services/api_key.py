"""The key of an endpoint: read from the environment, checked before a library sees it, and removed from all text that leaves.

A library that meets a key it cannot send quotes it in its error, and a server may echo one in any encoding. So a key that no header can carry
is refused here, without repeating it, and `without_key` knows the encodings.
"""

import base64
import functools
import html
import json
import os
import re
import urllib.parse

from sae.errors import InputError
from sae.interpretation.language_model.config import KEY_VARIABLE

SHORTEST_SECRET = 6  # characters: shorter ones are placeholders for servers without keys, and common in other text
PIECE = 8  # characters of a key that are not shown in a row
HIDDEN = "…"


def read_key() -> str | None:
    """The key in OPENAI_API_KEY without white space around it; None where it is unset or empty.

    Raises:
        InputError: it holds a character that no HTTP header can carry.
    """
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not all("!" <= char <= "~" for char in key):
        kind = "a line break" if set(key) & set("\r\n") else "a space or control character" if key.isascii() else "a character that is not ASCII"
        raise InputError(
            f"{KEY_VARIABLE} holds {kind} inside the key. A key is one word of ASCII characters. Set it again, without quotes or comments"
        )
    return key or None


def without_key(text: str, key: str | None) -> str:
    """`text` with every piece of the key replaced by an ellipsis, in whatever encoding it stands there."""
    if key is None or len(key) < SHORTEST_SECRET:
        return text
    return _encodings(key).sub(HIDDEN, text)


@functools.cache
def _encodings(key: str) -> re.Pattern[str]:
    """Matches runs of pieces of the key: as it is, reversed, quoted for Python, JSON, HTML or a URL, in base64 and in hexadecimal."""
    data = key.encode()
    whole = {key, repr(key)[1:-1], json.dumps(key)[1:-1], html.escape(key), urllib.parse.quote(key, safe=""), urllib.parse.quote(key)}
    whole |= {repr(repr(key))[2:-2], json.dumps(json.dumps(key))[3:-3]}
    whole |= {data.hex(), data.hex(" "), data.hex(":"), "".join(f"\\x{byte:02x}" for byte in data), "".join(f"\\u{byte:04x}" for byte in data)}
    whole |= {"".join(f"%{byte:02x}" for byte in data), "".join(f"&#{byte};" for byte in data), ", ".join(map(str, data))}
    for begin in range(3):  # what stands before the key shifts its base64 by one or two bytes
        coded = base64.b64encode(b"\0" * begin + data)[-(-begin * 4 // 3) :].decode().rstrip("=")[: -1 if (begin + len(data)) % 3 else None]
        whole |= {coded, coded.replace("+", "-").replace("/", "_")}
    whole |= {each[::-1] for each in whole}
    pieces = {each[start : start + PIECE] for each in whole for start in range(max(1, len(each) - PIECE + 1))}
    shown = "|".join(re.escape(each) for each in sorted(pieces | whole, key=len, reverse=True) if len(each) >= SHORTEST_SECRET)
    return re.compile(f"(?:{shown})+", re.IGNORECASE)
