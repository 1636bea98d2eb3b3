"""Separate a model's answer from the thinking it wrote before: only text after a finished thought is an answer.

Servers without a parser for a model's thinking hand it out as text. A thought that was cut off holds drafts, and a draft is no answer.
"""

import re

_NAMES = (
    r"think|thinking|thoughts?|reasoning|reflection|analysis|scratchpad|inner[ _-]?monologue|ant[_-]?thinking|seed:think|"
    r"begin_of_thought|start_thinking|unused94"
)
_ENDS = "end_of_thought|end_thinking|unused95"
# <think>, < Thinking effort="high" >, <|START_THINKING|>, <|begin_of_thought|>, [THINK], ◁think▷, and their ends.
_MARKER = re.compile(
    rf"(?:[<◁⟨]\s{{0,4}}\|?\s{{0,4}}(?P<end>/\s{{0,4}})?(?:(?P<name>{_NAMES})|(?P<closing>{_ENDS}))|\[\s{{0,4}}(?P<stop>/\s{{0,4}})?(?:think|thinking|thoughts?))"
    r"\|?(?:\s[^<>\[\]◁▷\n]{0,200})?\s{0,4}\|?[>\]▷⟩]",
    re.IGNORECASE,
)
_CHANNEL = re.compile(r"(?:<\|\s{0,4}channel\s{0,4}\|?>|<channel\|>)\s{0,4}([A-Za-z_]{0,20})", re.IGNORECASE)
_MESSAGE = re.compile(r"<\|message\|>", re.IGNORECASE)
_END_OF_MESSAGE = re.compile(r"<\|(?:end|return|call|start|im_end|eot_id)\|>", re.IGNORECASE)
_THOUGHT_CLOSES = "<channel|>"
# A server that leaves special tokens out turns `<|channel|>analysis<|message|>We need` into `analysisWe need`.
_BARE_CHANNEL = re.compile(r"\s{0,20}(?:analysis|commentary)(?=[A-Z\"'\[(])")
_BARE_FINAL = "assistantfinal"
_QUOTES = "\"'`“”‘’"


def after_thought(text: str) -> str | None:
    """The text after the last finished thought, the whole text where there is none, None where a thought is not finished.

    A marker between quotes or backticks is a word about thinking, not a thought.

    Example:
        >>> after_thought("<think>[1] or [0]?</think>[0]"), after_thought("[1]"), after_thought("[1] <think>or [0]?")
        ('[0]', '[1]', None)
    """
    channels = [marker for marker in _CHANNEL.finditer(text) if not _quoted(text, marker)]
    if channels:
        return _final_message(text, channels[-1])
    if _BARE_CHANNEL.match(text):
        return text.rpartition(_BARE_FINAL)[2] if _BARE_FINAL in text else None
    depth, answer = 0, 0
    for marker in _MARKER.finditer(text):
        if _quoted(text, marker) or marker[0].endswith("/>"):
            continue
        if marker["end"] or marker["stop"] or marker["closing"]:
            depth, answer = max(0, depth - 1), marker.end()
        else:
            depth += 1
    return None if depth else text[answer:]


def _final_message(text: str, last: re.Match[str]) -> str | None:
    """The message of the channel `final`; None where another channel comes last, or its message has not begun."""
    if last[0].lower().startswith(_THOUGHT_CLOSES):  # `<|channel>thought … <channel|>answer`
        return text[last.start() + len(_THOUGHT_CLOSES) :]
    begin = _MESSAGE.search(text, last.end())
    return _END_OF_MESSAGE.split(text[begin.end() :], maxsplit=1)[0] if begin and last[1].lower() == "final" else None


def _quoted(text: str, marker: re.Match[str]) -> bool:
    before, after = text[max(0, marker.start() - 1) : marker.start()], text[marker.end() : marker.end() + 1]
    return bool(before and after) and before in _QUOTES and after in _QUOTES
