"""The key of an endpoint: what no header can carry is refused when it is read, and no encoding of it is ever shown."""

import base64
import html
import json
import urllib.parse

import pytest

from sae.errors import InputError
from services.api_key import KEY_VARIABLE, read_key, without_key

KEY = "sk-very-secret/+='\"0123456789&"


@pytest.mark.parametrize("around", ["{}\n", "{}\r\n", "  {}", "\t{} \n", "{}"])
def test_white_space_around_a_key_is_left_out(around, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, around.format(KEY))
    assert read_key() == KEY


@pytest.mark.parametrize("value", [None, "", " \n"])
def test_an_empty_key_is_none(value, monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(KEY_VARIABLE, value)
    assert read_key() is None


@pytest.mark.parametrize("inside", ["\n", "\r", "\r\n", "\t", " ", "\x7f", "\x01", "é", "\u2028", "\u200b", "“", "\udc80"])
def test_a_key_that_no_header_can_carry_is_refused_without_repeating_it(inside, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, f"sk-first-part{inside}second-part")
    with pytest.raises(InputError, match=f"^{KEY_VARIABLE} holds .* inside the key") as refused:
        read_key()
    assert "part" not in str(refused.value)
    assert str(refused.value).isprintable()


ENCODINGS = {
    "plain": lambda key: key,
    "upper case": str.upper,
    "repr": lambda key: repr(key.encode()),
    "json": lambda key: json.dumps({"key": key}),
    "url": lambda key: urllib.parse.quote(key, safe=""),
    "url, lower case": lambda key: urllib.parse.quote(key, safe="").lower(),
    "form": urllib.parse.quote_plus,
    "html": html.escape,
    "base64": lambda key: base64.b64encode(key.encode()).decode(),
    "base64 of a header": lambda key: base64.b64encode(f"Bearer {key}".encode()).decode(),
    "base64 of a user": lambda key: base64.b64encode(f"ab:{key}:x".encode()).decode(),
    "base64 for URLs": lambda key: base64.urlsafe_b64encode(f"a{key}".encode()).decode(),
    "hexadecimal": lambda key: key.encode().hex(),
    "hexadecimal, apart": lambda key: key.encode().hex(" "),
    "percent": lambda key: "".join(f"%{byte:02X}" for byte in key.encode()),
    "reversed": lambda key: key[::-1],
    "a part": lambda key: key[4:20],
    "bytes": lambda key: str(list(key.encode())),
    "repr of a repr": lambda key: repr(repr(key)),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("key", [KEY, "sk-proj-AbCdEfGhIjKlMnOpQrStUvWxYz012345", "hunter2"])
def test_no_encoding_of_a_key_is_shown(encoding, key):
    encoded = ENCODINGS[encoding](key)
    shown = without_key(f"Illegal header value: {encoded} (again {encoded})", key)
    assert shown.startswith("Illegal header value: ")
    assert " (again " in shown
    middle = [encoded[start : start + 8].lower() for start in range(int(0.6 * len(encoded)), len(encoded) - 8)]  # beyond a header's own words
    assert not any(piece in shown.lower() for piece in middle), shown
    assert key[:8] not in shown
    assert key[-8:] not in shown


def test_other_text_and_placeholders_stay():
    assert without_key("no model 'ollama' at http://127.0.0.1:11434/v1", "none") == "no model 'ollama' at http://127.0.0.1:11434/v1"
    assert without_key("the model is loading", KEY) == "the model is loading"
    assert without_key("text", None) == "text"
