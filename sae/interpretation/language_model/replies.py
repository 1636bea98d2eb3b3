"""Reading replies: a sentence, labels or digits, or None where the reply does not give them. Nothing is guessed.

Replies come from a model that read hostile text and may hold anything, a thousand megabytes of brackets included: they are cut first, and
no pattern here backtracks over more than it has matched.
"""

import re

LONGEST_REPLY = 200_000  # characters looked at
LONGEST_EXPLANATION = 1000  # characters of an explanation kept
_EXPLANATION = re.compile(r"^[\s*_#\[]{0,8}explanation[\]*_ ]{0,4}:[\s*_]{0,4}(.*)$", re.IGNORECASE | re.MULTILINE)
_ARRAY = re.compile(r"\[([^\[\]{}]{0,20000})\]")
_ENTRY = re.compile(r"[\"']?(\d{1,4})[\"']?\s{0,4}:\s{0,4}\[([^\[\]{}]{0,20000})\]")
_THOUGHT = "</think>"
_LABELS = {"0": 0, "1": 1, "true": 1, "false": 0}
_REFUSALS = ("i'm sorry", "i’m sorry", "i am sorry", "i can't", "i can’t", "i cannot", "i won't", "i am unable", "i'm unable", "as an ai")


def explanation_in(text: str) -> str | None:
    """The sentence after the last `EXPLANATION:`, on one line."""
    found = _EXPLANATION.findall(_answer(text))
    sentence = " ".join(found[-1].split()).strip(" *_") if found else ""
    return sentence[:LONGEST_EXPLANATION] or None


def labels_in(text: str, count: int) -> list[int] | None:
    """The last list of exactly `count` zeros and ones.

    Example:
        >>> labels_in("They are [1, 0, 1].", 3), labels_in("[1, 0]", 3), labels_in("[1, 0, 1", 3)
        ([1, 0, 1], None, None)
    """
    for array in reversed(_ARRAY.findall(_answer(text))):
        words = [word.strip().strip("\"'").lower() for word in array.split(",")]
        if len(words) == count and all(word in _LABELS for word in words):
            return [_LABELS[word] for word in words]
    return None


def digits_in(text: str, sizes: list[int]) -> list[list[int] | None]:
    """For each numbered list, 1 and on, its digits 0 to 9; None where it is missing, given twice, or not of the size it should have.

    A reply that was cut off keeps the lists that are whole.

    Example:
        >>> digits_in('{"1": [0, 9], "2": [3], "3": [1, 1', [2, 2, 2])
        [[0, 9], None, None]
    """
    found: dict[int, list[list[int] | None]] = {}
    for number, numbers in _ENTRY.findall(_answer(text)):
        found.setdefault(int(number), []).append(_digits(numbers))
    lists = [found.get(number, []) for number in range(1, len(sizes) + 1)]
    return [each[0] if len(each) == 1 and each[0] is not None and len(each[0]) == size else None for each, size in zip(lists, sizes, strict=True)]


def looks_like_refusal(text: str) -> bool:
    """Whether a reply that could not be read begins as refusals do."""
    return _answer(text).lstrip().lower().startswith(_REFUSALS)


def _answer(text: str) -> str:
    """What comes after a model's thinking."""
    return text[-LONGEST_REPLY:].rpartition(_THOUGHT)[2]


def _digits(numbers: str) -> list[int] | None:
    words = [word.strip().strip("\"'") for word in numbers.split(",")]
    return [int(word) for word in words] if all(len(word) == 1 and word.isascii() and word.isdigit() for word in words) else None
