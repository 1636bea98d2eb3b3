r"""Showing text that nobody vouches for to a language model, so that it stays data.

Three walls. Every piece of text is one line: line breaks, tabs, control and invisible direction characters are spelt out. No text can
forge a highlight: where `<` or `>` of the text meets another or a marker it becomes `‹` or `›`. And no text can leave its block: blocks
are fenced by tags that hold a digest of what they fence, which the text would have to contain its own digest to forge; the prompts say
that what lies between the tags is data. A model may still be persuaded by what it reads: replies are therefore only ever parsed into a
sentence, labels or digits, and a sentence is fenced again before a scorer sees it.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence

from sae.storage import sha256_hex
from sae.subject.tokens_shown import JOINED
from sae.visible_text import SEEN_PARTS, whole_characters

LONGEST_TOKEN = 60  # characters of one token shown; some vocabularies hold lines of dashes
_OPEN, _CLOSE = "\x01", "\x02"
_NEXT_TO_MARK = re.compile(f"(?<=[<{_OPEN}{_CLOSE}])<|<(?=[<{_OPEN}{_CLOSE}])")
_NEXT_TO_CLOSE = re.compile(f"(?<=[>{_OPEN}{_CLOSE}])>|>(?=[>{_OPEN}{_CLOSE}])")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\"}
_INVISIBLE = {"Cc", "Cf", "Zl", "Zp", "Cs", "Co", "Cn"}


def spelt_out(text: str, longest: int | None = None) -> str:
    r"""One line without characters that cannot be seen.

    Example:
        >>> spelt_out("a\nb\u202e")
        'a\\nb\\u202e'
    """
    shown = _each_unseen(text, _visible)
    return shown if longest is None or len(shown) <= longest else shown[: longest - 1] + "…"


def highlighted(tokens: Sequence[str], marked: Iterable[bool]) -> str:
    """Tokens as one line of text, runs of marked ones between `<<` and `>>`; with no mark, plain text that holds neither.

    A character that several tokens make up is marked as a whole where any of them is.

    Example:
        >>> highlighted(["1", " <<", " 2"], [False, True, False])
        '1<< ‹‹>> 2'
    """
    pieces, inside, marks = list[str](), False, list(marked)
    for group in whole_characters(tokens):
        mark = any(marks[place] for place in group)
        if mark != inside:
            pieces.append(_OPEN if mark else _CLOSE)
            inside = mark
        pieces.append(spelt_out("".join(tokens[place] for place in group), LONGEST_TOKEN))
    text = "".join([*pieces, _CLOSE if inside else ""])
    return _NEXT_TO_CLOSE.sub("›", _NEXT_TO_MARK.sub("‹", text)).replace(_OPEN, "<<").replace(_CLOSE, ">>")


def token_literal(token: str) -> str:
    r"""A token as a JSON string on one line; `‿` where its character stands at a later token.

    Example:
        >>> token_literal("\n\"é\u202e")
        '"\\n\\"é\\u202e"'
    """
    return one_line(json.dumps(token[:LONGEST_TOKEN] or JOINED, ensure_ascii=False))


def token_list(tokens: Sequence[str]) -> str:
    """Tokens as a JSON list on one line."""
    return f"[{', '.join(map(token_literal, tokens))}]"


def one_line(text: str) -> str:
    """The text with every character that cannot be seen spelt out, and nothing else changed."""
    return _each_unseen(text, _escaped)


def fenced(name: str, lines: Iterable[str]) -> str:
    """Lines of data between tags that none of them can hold: the tags name a digest of the lines."""
    body = "\n".join(lines)
    tag = f"{name}-{sha256_hex(body.encode())[:12]}"
    return f"<{tag}>\n{body}\n</{tag}>"


def _each_unseen(text: str, shown: Callable[[str], str]) -> str:
    """The text with each character as `shown` gives it, but parts of joined emoji and letters, which stay."""
    found, start = list[str](), 0
    for part in SEEN_PARTS.finditer(text):
        found += [*map(shown, text[start : part.start()]), part[0]]
        start = part.end()
    return "".join([*found, *map(shown, text[start:])])


def _visible(char: str) -> str:
    return _SHORT[char] if char in _SHORT else _escaped(char)


def _escaped(char: str) -> str:
    unseen = not char.isprintable() if char.isascii() else unicodedata.category(char) in _INVISIBLE
    # json escapes everything beyond ASCII, surrogates included, as a reader of JSON undoes it.
    return json.dumps(char)[1:-1].replace("\x7f", "\\u007f") if unseen else char
