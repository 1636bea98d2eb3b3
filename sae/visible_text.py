"""Text without surprises: invisible characters are shown as codes, and what people see as one character is kept together.

Zero-width and direction characters, controls and fillers hide text or turn the text around them. They are kept only where they are a part of
what is seen: joined emoji and their variants, keycaps, three flags, letters of Arabic and Indian scripts. `feature_view.js` holds the same
rules for the page.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence

# Emoji that others are joined to, and the scripts whose letters a zero-width joiner or non-joiner shapes (Arabic to Myanmar, Khmer, Mongolian).
_EMOJI = r"\u00a9\u00ae\u203c\u2049\u20e3\u2100-\u27bf\u2900-\u2bff\u3030\u303d\u3297\u3299\ufe0f\U0001f000-\U0001faff"
_SHAPED = r"\u0600-\u109f\u1780-\u18af"
# England, Scotland and Wales: the only flags made of invisible letters. Others could carry text that nobody sees.
_REGION = r"\U0001f3f4\U000e0067\U000e0062(?:\U000e0065\U000e006e\U000e0067|\U000e0073\U000e0063\U000e0074|\U000e0077\U000e006c\U000e0073)\U000e007f"
_PARTS = (
    rf"(?<=[{_EMOJI}])(?:\u200d(?=[{_EMOJI}])|[\ufe0e\ufe0f])|(?<=[0-9#*])\ufe0f(?=\u20e3)"
    rf"|(?<=[{_SHAPED}])[\u200c\u200d]|{_REGION}"
)
_INVISIBLE = (
    r"[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164"
    r"\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
SEEN_PARTS = re.compile(_PARTS)  # characters that show nothing alone, where they are a part of what is seen
UNSEEN = re.compile(f"{_PARTS}|({_INVISIBLE})")  # the group holds what shows nothing and is no such part
_PICTURES = str.maketrans({"\n": "↵", "\t": "⇥", "\u00a0": "⍽"})
_FLAG_LETTER = "[\U0001f1e6-\U0001f1ff]"
_OPEN_END = re.compile(rf"\u200d$|(?<!{_FLAG_LETTER})(?:{_FLAG_LETTER}{_FLAG_LETTER})*{_FLAG_LETTER}$")


def visible(text: str) -> str:
    r"""Text as a page shows it: what shows nothing, or turns the text around it, is written as its code, line breaks and tabs as pictures.

    Example:
        >>> visible("a\n\u200bb")
        'a↵⟦U+200B⟧b'
    """
    return UNSEEN.sub(lambda found: f"⟦U+{ord(found[1]):04X}⟧" if found[1] else found[0], text).translate(_PICTURES)


def whole_characters(line: Sequence[str]) -> Iterator[range]:
    """Tokens of a line that make up what people see as one character: parts of a byte sequence, combining marks, joined emoji, flags.

    Example:
        >>> [list(group) for group in whole_characters(["a", "", "ü", " o", "\u0308"])]
        [[0], [1, 2], [3, 4]]
    """
    start, before = 0, ""
    for place, text in enumerate(line):
        if place > start and before and not _continues(before, text):
            yield range(start, place)
            start, before = place, ""
        before += text
    if line:
        yield range(start, len(line))


def _continues(before: str, text: str) -> bool:
    """Say whether text is seen as a part of the character before it."""
    if not text or before[-1].isspace() or before.endswith("⟧"):
        return False
    joins = unicodedata.category(text[0]).startswith("M") or text[0] == "\u200d" or "\U0001f3fb" <= text[0] <= "\U0001f3ff"
    opened = _OPEN_END.search(before)
    return joins or (opened is not None and (before[-1] == "\u200d" or re.match(_FLAG_LETTER, text) is not None))
