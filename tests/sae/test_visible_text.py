"""Text without surprises: what nobody sees becomes visible, and what people see as one character stays together."""

import re
import unicodedata
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae.visible_text import SEEN_PARTS, UNSEEN, visible, whole_characters

FAMILY = "👨\u200d👩\u200d👧"
SCOTLAND = "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f"


@pytest.mark.parametrize(
    "text", ["plain — “text”", "机器学习", "שָׁלוֹם", "می\u200cخواهم", "क्\u200dष हिन्दी", FAMILY, "❤\ufe0f 1\ufe0f\u20e3 👍🏽 🇩🇪", SCOTLAND]
)
def test_text_stays_as_people_write_it(text):
    assert visible(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\tc\u00a0d", "a↵b⇥c⍽d"),
        ("a\u200bb\u200dc", "a⟦U+200B⟧b⟦U+200D⟧c"),
        ("x\u202egpj.exe", "x⟦U+202E⟧gpj.exe"),
        ("line\u2028end\x1b[31m\r", "line⟦U+2028⟧end⟦U+001B⟧[31m⟦U+000D⟧"),
        ("👨\u200d\u200d\u200d", "👨⟦U+200D⟧⟦U+200D⟧⟦U+200D⟧"),
        ("\u3164\u115f\ud83d", "⟦U+3164⟧⟦U+115F⟧⟦U+D83D⟧"),
        ("a\U000e0068\U000e0069", "a⟦U+E0068⟧⟦U+E0069⟧"),
        ("\U0001f3f4\U000e0069\U000e0067\U000e006e\U000e007f", "🏴⟦U+E0069⟧⟦U+E0067⟧⟦U+E006E⟧⟦U+E007F⟧"),
    ],
)
def test_what_nobody_sees_is_a_code_or_a_picture(text, shown):
    assert visible(text) == shown
    assert visible(shown) == shown


@pytest.mark.fuzz
@given(text=st.text(st.characters()))
def test_any_text_is_one_line_without_directions(text):
    shown = visible(text)
    left = SEEN_PARTS.sub("", shown)
    assert not any(
        unicodedata.category(char) in ("Cc", "Zl", "Zp", "Cs") or unicodedata.bidirectional(char) in ("RLO", "RLE", "RLI") for char in shown
    )
    assert not UNSEEN.fullmatch(left[:1] or "x")


@pytest.mark.parametrize(
    ("tokens", "groups"),
    [
        (["a", "", "", "机", "b"], [["a"], ["", "", "机"], ["b"]]),
        (["ह", "ि", "न", "्", "दी"], [["ह", "ि"], ["न", "्"], ["दी"]]),
        (["👨", "\u200d", "👩", "!"], [["👨", "\u200d", "👩"], ["!"]]),
        (["👍", "🏽", "👍"], [["👍", "🏽"], ["👍"]]),
        (["🇩", "🇪", "🇫", "🇷"], [["🇩", "🇪"], ["🇫", "🇷"]]),
        ([" ", "\u0301", "⟦</s>⟧", "\u0301"], [[" "], ["\u0301"], ["⟦</s>⟧"], ["\u0301"]]),
        (["a", ""], [["a"], [""]]),
        ([], []),
    ],
)
def test_tokens_of_one_visible_character_stand_together(tokens, groups):
    assert [[tokens[place] for place in group] for group in whole_characters(tokens)] == groups


@pytest.mark.fuzz
@given(tokens=st.lists(st.text(st.characters(), max_size=3)))
def test_every_token_is_in_one_group_in_its_order(tokens):
    assert [place for group in whole_characters(tokens) for place in group] == list(range(len(tokens)))


def test_the_page_has_the_same_rules():
    script = files("sae.report").joinpath("feature_view.js").read_text(encoding="utf-8")
    [pattern] = re.findall(r"^const UNSEEN = /(.*)/gu;$", script, re.MULTILINE)
    assert re.sub(r"\\u\{(\w+)\}", lambda code: f"\\U{code[1].zfill(8)}", pattern) == UNSEEN.pattern
