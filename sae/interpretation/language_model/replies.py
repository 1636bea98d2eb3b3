"""Read replies: a sentence, labels or digits, or None where the reply does not give them. Nothing is guessed.

Replies come from a model that read hostile text and may hold anything, a thousand megabytes of brackets included: they are cut first, and
no pattern here backtracks over more than it has matched. Where a reply holds drafts, the last one counts.
"""

import contextlib
import json
import re
from collections import Counter
from collections.abc import Iterator

from sae.interpretation.language_model.thought import after_thought
from sae.storage import without_surrogates

LONGEST_REPLY = 200_000  # characters looked at
LONGEST_EXPLANATION = 1000  # characters of an explanation kept
_MARKS = r"[ \t>*_#`\"'“‘\[({-]"  # what decorates the beginning of a line
_LEAD = r"(?:(?:the|my|a|one|final|best|answer|short|one-sentence)[ \t:*_-]{1,4}){0,4}"
_EXPLANATION = re.compile(
    rf"^{_MARKS}{{0,16}}(?:\(?\d{{1,3}}[.):]{_MARKS}{{0,16}})?{_LEAD}explanation[\]*_`\"'”’ \t)]{{0,6}}(?:[:：]|[-–—=] |$)[^\n]*",
    re.IGNORECASE | re.MULTILINE,
)
_TO_SENTENCE = re.compile(r".{0,120}?explanation[\]*_`\"'”’ \t)]{0,6}(?:[:：]|[-–—=] )?", re.IGNORECASE)
_NEXT_LINE = re.compile(r"\s{0,20}([^\n]*)")
_TAGGED = re.compile(r"<explanation>([^<]{0,4000})</explanation>", re.IGNORECASE)
_FIELD = re.compile(
    r"""[{,]\s{0,20}(["'])(?:final[ _]?)?explanation\1\s{0,20}:\s{0,20}("(?:[^"\\\n]|\\.){0,8000}"|'(?:[^'\\\n]|\\.){0,8000}')""", re.IGNORECASE
)
# The form that the prompt shows, given back without having been filled in.
_PLACEHOLDER = re.compile(
    r"[<\[({]{1,3}\s?(?:(?:the|your|a|an|one|short|insert|sentence|explanation|text|goes|here)(?![a-z])[ _-]?){1,8}[>\])}]{1,3}[.…]{0,3}",
    re.IGNORECASE,
)
_BARE_PLACEHOLDER = re.compile(
    r"(?:(?:the|your|a|an|one|insert|short)[ _-]){0,3}(?:sentence|explanation)(?: goes)?(?: here)?[.…]{0,3}", re.IGNORECASE
)
_ARRAY = re.compile(r"\[([^\[\]{}]{0,20000})\]")
_OBJECT = re.compile(r"\{([^\[\]{}]{0,20000})\}")
_LABEL_OF_ITEM = re.compile(r"\s{0,20}[\"']?(?:(?:piece|item|token|text)[ _]?)?(\d{1,5})[\"']?\s{0,4}:\s{0,4}([^\s:]{1,12})\s{0,20}", re.IGNORECASE)
_ENTRY = re.compile(r"[\"']?(\d{1,4})[\"']?\s{0,4}:\s{0,4}\[([^\[\]{}]{0,20000})\]")
_BETWEEN_ENTRIES = re.compile(r"[\s,;\"'*-]{0,40}")
_ALONE = re.compile(
    r"[\s>*_#`\"'-]{0,16}(?:(?:final\s{1,4})?(?:answer|label|labels|output|result|list)[\s*_`]{0,4}[:=]?)?[\s*_`]{0,8}", re.IGNORECASE
)
_LABELS = {"0": 0, "1": 1, "true": 1, "false": 0}
_INTEGRAL = re.compile(r"([0-9])\.0{1,6}")
_REFUSALS = ("i'm sorry", "i’m sorry", "i am sorry", "i can't", "i can’t", "i cannot", "i won't", "i am unable", "i'm unable", "as an ai")


def explanation_in(text: str) -> str | None:
    """The last sentence that follows `EXPLANATION:`, on one line; headings, tags and JSON fields of that name count, too.

    A form that was not filled in, such as `<the sentence>`, is no explanation.
    """
    sentences = [sentence for each in _sentences(_answer(text)) if not _is_form(sentence := _clean(each))]
    return (sentences[-1][:LONGEST_EXPLANATION].rstrip() or None) if sentences else None


def labels_in(text: str, count: int) -> list[int] | None:
    """The last list, or object by number, of exactly `count` zeros and ones.

    One item alone is asked about with care: `[1]` may also be a reference to piece 1, so the list must stand alone in its line, and
    all such lists must say the same.

    Example:
        >>> labels_in("They are [1, 0, 1].", 3), labels_in("[1, 0]", 3), labels_in("[1, 0, 1", 3)
        ([1, 0, 1], None, None)
    """
    answer = _answer(text)
    found = [
        (match.span(), labels)
        for match in _ARRAY.finditer(answer)
        if len(words := _parts(match[1])) == count and (labels := _labels(words)) is not None
    ]
    if count == 1:
        return _single_label(answer, found)
    found += _objects(answer, count)
    return max(found)[1] if found else None


def digits_in(text: str, sizes: list[int]) -> list[list[int] | None]:
    """For each numbered list, 1 and on, its digits 0 to 9; None where it is missing, given twice in one object, or of another size.

    A reply that was cut off keeps the lists that are whole. Where an object repeats the numbers of an earlier one, the earlier was a draft.

    Example:
        >>> digits_in('{"1": [0, 9], "2": [3], "3": [1, 1', [2, 2, 2])
        [[0, 9], None, None]
    """
    found: dict[int, list[int] | None] = {}
    for group in _groups(_answer(text)):
        times = Counter(number for number, _ in group)
        if times.keys() & found.keys():
            found = {}
        found |= {number: digits if times[number] == 1 else None for number, digits in group}
    lists = [found.get(number) for number in range(1, len(sizes) + 1)]
    return [each if each is not None and len(each) == size else None for each, size in zip(lists, sizes, strict=True)]


def looks_like_refusal(text: str) -> bool:
    """Say whether a reply that could not be read begins as refusals do."""
    return _answer(text).lstrip().lower().startswith(_REFUSALS)


def _answer(text: str) -> str:
    """Return the text after a model's thinking; nothing where it has not ended."""
    return (after_thought(text[-LONGEST_REPLY:]) if len(text) <= LONGEST_REPLY else _end_of(text)) or ""


def _end_of(text: str) -> str | None:
    """The answer at the end of a very long reply. Its beginning decides as well whether the model is thinking."""
    begin, end = after_thought(text[:LONGEST_REPLY]), text[-LONGEST_REPLY:]
    answer = after_thought(end)
    return None if begin is None and answer == end else answer


def _sentences(answer: str) -> list[str]:
    """Return the text after each mention of an explanation that has its form, in the order of the text."""
    fields = [(match.span(), _literal(match[2])) for match in _FIELD.finditer(answer)]
    fields += [(match.span(), match[1]) for match in _TAGGED.finditer(answer)]
    lines = [
        (match.span(), _after_mark(answer, match))
        for match in _EXPLANATION.finditer(answer)
        if not any(low < match.end() and match.start() < high for (low, high), _ in fields)
    ]
    return [sentence for _, sentence in sorted(fields + lines)]


def _after_mark(answer: str, line: re.Match[str]) -> str:
    """The rest of the line, or the next line that is not empty where nothing is left of it."""
    mark = _TO_SENTENCE.match(answer, line.start())
    rest = answer[mark.end() : line.end()] if mark else ""
    if rest.strip(" \t*_`"):
        return rest
    following = _NEXT_LINE.match(answer, line.end())
    return following[1] if following else ""


def _literal(quoted: str) -> str:
    """The text of a JSON string, or of one in single quotes."""
    text = quoted[1:-1]
    if quoted[0] == '"':
        with contextlib.suppress(ValueError):
            text = str(json.loads(quoted))
    return without_surrogates(text.replace("\\'", "'"))


def _clean(sentence: str) -> str:
    """One line without the decoration around it."""
    line = " ".join(sentence.split()).strip(" *_`")
    inner = line[1:-1]
    return inner.strip() if line[:1] + line[-1:] in ('""', "“”") and len(line) > 1 and not set(inner) & set('"“”') else line


def _is_form(sentence: str) -> bool:
    placeholder = _PLACEHOLDER.fullmatch(sentence) or _BARE_PLACEHOLDER.fullmatch(sentence)
    return bool(placeholder) or (bool(sentence) and not any(char.isalnum() for char in sentence) and set(sentence) <= set(".…<>[]{} "))


def _single_label(answer: str, found: list[tuple[tuple[int, int], list[int]]]) -> list[int] | None:
    alone = _objects(answer, 1)
    for (start, end), labels in found:
        before, after = answer[answer.rfind("\n", 0, start) + 1 : start], answer[end:].partition("\n")[0]
        if _ALONE.fullmatch(before) and not any(char.isdigit() or char in "[]" for char in after):
            alone.append(((start, end), labels))
    values = {tuple(labels) for _, labels in alone}
    return list(values.pop()) if len(values) == 1 else None


def _objects(answer: str, count: int) -> list[tuple[tuple[int, int], list[int]]]:
    """Labels in objects that give one to each number from 1 to `count`."""
    found = []
    for match in _OBJECT.finditer(answer):
        fields = [_LABEL_OF_ITEM.fullmatch(field) for field in _parts(match[1])]
        by_number = {int(field[1]): field[2] for field in fields if field}
        if len(fields) == count and sorted(by_number) == list(range(1, count + 1)):
            labels = _labels([by_number[number] for number in range(1, count + 1)])
            found += [(match.span(), labels)] if labels is not None else []
    return found


def _parts(inner: str) -> list[str]:
    """Split at commas; a comma at the end separates nothing."""
    parts = inner.split(",")
    return parts[:-1] if len(parts) > 1 and not parts[-1].strip() else parts


def _labels(words: list[str]) -> list[int] | None:
    labels = [_LABELS.get(_bare(word)) for word in words]
    return [label for label in labels if label is not None] if None not in labels else None


def _digits(inner: str) -> list[int] | None:
    words = [_bare(word) for word in _parts(inner)]
    return [int(word) for word in words] if all(len(word) == 1 and word.isascii() and word.isdigit() for word in words) else None


def _bare(word: str) -> str:
    """A value without quotes; `1.0` is `1`."""
    word = word.strip().strip("\"'").lower()
    return found[1] if (found := _INTEGRAL.fullmatch(word)) else word


def _groups(answer: str) -> Iterator[list[tuple[int, list[int] | None]]]:
    """The numbered lists of each object: those with nothing but commas between them."""
    group, end = list[tuple[int, list[int] | None]](), 0
    for match in _ENTRY.finditer(answer):
        if group and not _BETWEEN_ENTRIES.fullmatch(answer, end, match.start()):
            yield group
            group = []
        group.append((int(match[1]), _digits(match[2])))
        end = match.end()
    if group:
        yield group
