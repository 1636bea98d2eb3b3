"""Judge what an endpoint sent back, in one place: an answer of the model, or a failure of the endpoint, and of which kind.

A status alone says little. Routers send errors with HTTP 200, filters refuse a text with 400 or 403, servers name a prompt that is too long
in a hundred ways, and proxies answer in HTML. Servers differ in what they leave out, so every field is read for its type and nothing is
required but a choice with a message.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from sae.interpretation.language_model.endpoint_errors import EndpointError, error_in
from sae.interpretation.language_model.thought import after_thought
from sae.storage import without_surrogates

Verdict = Literal[
    "answered",
    "truncated",
    "refused",
    "empty",
    "too_long",
    "rejected",
    "forbidden",
    "rate_limited",
    "failed",
    "unreadable",
    "key_refused",
    "not_there",
    "no_money",
    "unreachable",
    "timed_out",
    "broken",
    "cut",
]
LARGEST_COUNT = 10_000_000  # tokens: no context is as long, so a larger count is an error of the server
SAID = 200  # characters of an endpoint's words
UNANSWERED = (408, 504, 524)  # a proxy stopped waiting: the model may have answered, and the reply may have to be paid for
_KEY_CODES = {
    *("invalid_api_key", "incorrect_api_key", "missing_api_key", "api_key_invalid", "invalid_authentication", "authentication_error"),
    *("unauthenticated", "permission_error", "permission_denied", "unsupported_country_region_territory"),
}
_NO_MONEY_CODES = {"insufficient_quota", "insufficient_balance", "insufficient_credits", "billing_hard_limit_reached", "billing_not_active"}
_FILTER_CODES = {
    *("content_filter", "content_policy_violation", "responsibleaipolicyviolation", "moderation_blocked", "content_moderation"),
    *("data_inspection_failed", "datainspectionfailed", "prohibited_content", "safety"),
}
_TOO_LONG_CODES = {
    "context_length_exceeded",
    "exceed_context_size_error",
    "contextwindowexceedederror",
    "string_above_max_length",
    "request_too_large",
}
_BUSY_CODES = {"rate_limit_exceeded", "rate_limit_error", "too_many_requests", "resource_exhausted"}
_INVALID_CODES = {"invalid_request_error", "invalid_argument", "badrequesterror", "bad_request", "validation"}
_FILTER_WORDS = re.compile(
    r"moderation|content (?:filter|policy|management policy)|flagged|safety (?:system|filter)|inappropriate content", re.IGNORECASE
)
# Words of vLLM, llama.cpp, Ollama, TGI, OpenAI and others for a prompt that does not fit.
_TOO_LONG_WORDS = re.compile(
    r"context (?:length|size|window)|maximum (?:context|length)|too long|too many tokens|max_model_len|max_new_tokens|request too large",
    re.IGNORECASE,
)
_FILTERED = {"content_filter", "safety", "prohibited_content", "blocklist", "recitation"}
_CUT_OFF = {"length", "max_tokens", "model_length"}
_BROKEN_OFF = {"error", "abort", "insufficient_system_resource"}
_TAG = re.compile(r"<[^<>]{0,2000}>")


@dataclass(frozen=True)
class Judgement:
    """The meaning of a response.

    Attributes:
        verdict: `answered`, `truncated`, `refused` and `empty` are outcomes of the model, the others failures of the endpoint. The last four
            are not told from a response: nothing answered, or not in time, or a part only; or the prompt was read in part (`cut`).
        text: the model's words; of a failure, one line with the words of the endpoint.
        prompt_tokens: tokens sent as the endpoint counted them; None where that is not known.
        reply_tokens: tokens received, likewise. A request that was turned away has none of either.
        wait_seconds: the wait that the endpoint asks for.
    """

    verdict: Verdict
    text: str
    prompt_tokens: int | None = 0
    reply_tokens: int | None = 0
    wait_seconds: float = 0.0


def judge(status: int, headers: Mapping[str, str], body: bytes) -> Judgement:
    """Judge a response of a chat endpoint.

    Args:
        status: of HTTP.
        headers: with lower-case names.
        body: decompressed, as far as it was read.
    """
    content = _parsed(body)
    if 200 <= status < 300:
        return _judge_success(status, headers, content)
    error = error_in(content) or EndpointError(_plain_text(body), frozenset(), None, False)
    return _judge_error(status, f"HTTP {status}: {error.words}", error, headers)


def _judge_success(status: int, headers: Mapping[str, str], content: Any) -> Judgement:
    error = error_in(content)
    if isinstance(content, list) and error is None:
        return _unreadable("its reply is a list")
    if not isinstance(content, dict) and error is None:
        return _unreadable("its reply is not JSON")
    sent, received = _usage(content)
    if error is not None:
        named = "an error" if error.status is None else f"error {error.status}"
        found = _judge_error(error.status, f"HTTP {status} with {named}: {error.words}", error, headers)
        return Judgement(found.verdict, found.text, sent or 0, received or 0, found.wait_seconds)
    choices = content.get("choices")
    if not isinstance(choices, list) or (choices and not (isinstance(choices[0], dict) and isinstance(choices[0].get("message"), dict))):
        return _unreadable("its reply is no chat completion")
    if not choices:
        return Judgement("empty", "its reply has no choices", sent, received)
    verdict, text = _judge_choice(choices[0])
    return Judgement(verdict, without_surrogates(text), sent, None if received == 0 and text else received)


def _judge_choice(choice: dict[str, Any]) -> tuple[Verdict, str]:
    """The verdict on a completion, and the model's words."""
    message, reason = choice["message"], str(choice.get("finish_reason")).lower()
    text, refusal = _text_of(message.get("content")), message.get("refusal")
    if reason in _BROKEN_OFF:
        return "failed", f"it broke off its reply (finish_reason {reason!r})"
    if reason in _FILTERED or (isinstance(refusal, str) and refusal):
        return "refused", refusal if isinstance(refusal, str) and refusal else text or ""
    if text is None:
        return "unreadable", "the content of its reply is no text"
    if not text.strip():
        return ("truncated" if reason in _CUT_OFF or _only_thinks(message) else "empty"), ""
    return ("truncated" if reason in _CUT_OFF or after_thought(text) is None else "answered"), text


def _judge_error(status: int | None, said: str, error: EndpointError, headers: Mapping[str, str]) -> Judgement:
    codes, refused = error.codes, status is None or status < 429
    text = _one_line(said)
    unknown = None if status in UNANSWERED else 0
    wait = _wait_seconds(headers)
    verdict: Verdict
    if status == 401 or codes & _KEY_CODES:
        verdict = "key_refused"
    elif refused and (error.filtered or codes & _FILTER_CODES or _FILTER_WORDS.search(error.words)):
        verdict = "refused"
    elif status == 402 or codes & _NO_MONEY_CODES or "credit balance is too low" in error.words:
        verdict = "no_money"
    elif status == 413 or codes & _TOO_LONG_CODES or (status != 429 and _TOO_LONG_WORDS.search(error.words)) or "equest too large" in error.words:
        verdict = "too_long"
    elif status in (404, 405) or "model_not_found" in codes or (status is not None and 300 <= status < 400):
        verdict = "not_there"
    elif status == 403:
        verdict = "forbidden"
    elif status == 429 or codes & _BUSY_CODES:
        verdict = "rate_limited"
    elif (status is None and not codes & _INVALID_CODES) or status in (408, 409, 425) or (status is not None and status >= 500):
        verdict = "failed"
    else:
        verdict = "rejected"
    return Judgement(verdict, text, unknown, unknown, wait)


def _unreadable(words: str) -> Judgement:
    return Judgement("unreadable", words, None, None)


def _parsed(body: bytes) -> Any:
    """The JSON of a body, None where it is none. NaN and infinity become null: a reply is not lost for a number that is not needed."""
    try:
        return json.loads(body.decode("utf-8-sig", "replace"), parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None


def _text_of(content: Any) -> str | None:
    """The text of a message: of a list of parts, those that are not thinking; None where it is no text."""
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        return None
    parts = [part for part in content if isinstance(part, str) or (isinstance(part, dict) and not _thinks(part))]
    texts = [part if isinstance(part, str) else part.get("text") for part in parts]
    return "".join(text for text in texts if isinstance(text, str))


def _only_thinks(message: dict[str, Any]) -> bool:
    """Say whether a message without text holds a thought, which therefore did not come to its end."""
    parts = message.get("content")
    return any(message.get(name) for name in ("reasoning_content", "reasoning", "thinking")) or (
        isinstance(parts, list) and any(isinstance(part, dict) and _thinks(part) for part in parts)
    )


def _thinks(part: dict[str, Any]) -> bool:
    return bool(re.search(r"think|thought|reason", str(part.get("type")))) or part.get("thought") is True


def _usage(content: Any) -> tuple[int | None, int | None]:
    """Tokens sent and received, None where the endpoint does not count them. A prompt of 0 tokens was not counted."""
    usage = content.get("usage") if isinstance(content, dict) else None
    if not isinstance(usage, dict):
        return None, None
    sent, received = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    if sent is None and (sent := _count(usage.get("input_tokens"))) is not None:  # counted without what a cache held
        sent += sum(_count(usage.get(name)) or 0 for name in ("cache_read_input_tokens", "cache_creation_input_tokens"))
    return sent or None, received if received is not None else _count(usage.get("output_tokens"))


def _count(value: Any) -> int | None:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,8}", value):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_COUNT else None


def _wait_seconds(headers: Mapping[str, str]) -> float:
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        try:
            seconds = float(headers[name]) / unit
        except (KeyError, ValueError):
            continue
        return max(0.0, seconds) if math.isfinite(seconds) else 0.0
    try:
        date = parsedate_to_datetime(headers["retry-after"])
        return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - datetime.now(UTC).timestamp())
    except (ValueError, KeyError, TypeError, OverflowError):
        return 0.0


def _plain_text(body: bytes) -> str:
    """The words of a body that is no JSON: a proxy's page without its tags."""
    return _TAG.sub(" ", body[:20_000].decode("utf-8", "replace"))


def _one_line(words: str) -> str:
    line = " ".join("".join(char if char.isprintable() else " " for char in words).split())
    return line if len(line) <= SAID else line[: SAID - 1] + "…"
