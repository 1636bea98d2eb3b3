"""JSON from outside is refused in one line or means what it says; a sealed object cannot change unnoticed."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae.errors import CorruptObjectError, InputError, MonosemError
from sae.storage import Place, parse_json, parse_json_lines, sealed, to_json, unsealed, without_surrogates


@pytest.mark.parametrize(
    "text",
    [
        *(b"NaN", b"Infinity", b"[-Infinity]", b"1e999", b"-1E+9999", b"1" * 5000, b"1" * 400 + b".0"),
        *(b'"\\ud83d"', b'{"\\udc80": 1}', b"[" * 200_000, b'{"a":' * 2000, b"[" * 65 + b"]" * 65),
        *(b"\xff", '{"a": 1}'.encode("utf-16"), b"\xef\xbb\xbf{}", b"", b"{", b'{"a" 1}', b"nul", b'"\x01"'),
    ],
)
def test_what_is_no_json_or_no_number_is_refused_with_its_place(text):
    with pytest.raises(InputError, match=r"^run/x\.json is not valid JSON") as error:
        parse_json(text, "run/x.json")
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("value", [1e308, -1e-320, 10**300, "\U0001f600 \u2028", [[[]]] * 100, {"e+999": "1e999", "a": "[" * 100}, 1e-300])
def test_what_is_json_is_read_as_it_was_written(value):
    assert parse_json(to_json(value), "here") == value
    assert parse_json(json.dumps(value).encode(), "here") == value  # with escapes


@pytest.mark.parametrize("text", ['{"text": "a", "text": "b"}', '[{"a": {"text": 1, "b": 2, "te\\u0078t": 1}}]'])
def test_a_key_that_occurs_twice_is_named(text):
    """Python's parser takes the last value, others the first."""
    with pytest.raises(InputError, match=r"here is not valid JSON \(the key 'text' occurs more than once in an object\)"):
        parse_json(text, "here")


def test_the_deepest_nesting_that_is_read():
    assert parse_json(b"[" * 64 + b"]" * 64, "here") is not None


def test_a_line_that_is_no_json_is_named_by_its_number():
    assert list(parse_json_lines('{"a": "\u2028"}\n\n2\r\n'.encode(), "log")) == [{"a": "\u2028"}, 2]
    with pytest.raises(InputError, match="log, line 3 is not valid JSON"):
        list(parse_json_lines(b"1\n\nNaN\n", "log"))


def test_any_change_of_a_sealed_object_is_found(tmp_path):
    place, content = Place(tmp_path), {"d_in": 32, "nested": {"scale": 0.1, "names": ["a", "b"]}, "none": None, "text": "\u00e9"}
    place.put_sealed("x.json", content)
    assert place.get_sealed("x.json") == content
    written = place.get("x.json")
    draw, changed = random.Random(0), 0
    for _ in range(300):
        at = draw.randrange(len(written))
        place.put("x.json", written[:at] + bytes([draw.randrange(256)]) + written[at + 1 :])
        try:
            assert place.get_sealed("x.json") == content  # white space
        except MonosemError:
            changed += 1
    assert changed > 200


@pytest.mark.fuzz
@given(st.binary() | st.text(alphabet='[]{}",:0123456789eE+-.NaInfity\\u d8', max_size=60).map(str.encode))
def test_any_bytes_are_json_that_can_be_written_again_or_are_refused(data):
    try:
        value = parse_json(data, "here")
    except InputError:
        return
    assert parse_json(to_json(value), "here") == value


@pytest.mark.parametrize("value", [None, [], "x", {}, {"a": 1}, sealed({"a": 1}) | {"a": 2}, sealed({"a": 1}) | {"b": 1}, {"a": 1, "digest": 5}])
def test_an_object_without_its_digest_is_refused(value):
    with pytest.raises(CorruptObjectError, match=r"^config\.json "):
        unsealed(value, "config.json")


def test_halves_of_surrogate_pairs_are_replaced_and_nothing_else():
    assert without_surrogates("a\ud83db\U0001f600\udc80") == "a\ufffdb\U0001f600\ufffd"
    with pytest.raises(UnicodeEncodeError):
        to_json("\ud83d")
