"""A client of any OpenAI-compatible endpoint (vLLM, Ollama, llama.cpp, transformers, hosted): patient, within its limits, never beyond its budget.

The key comes from OPENAI_API_KEY alone and is in no message, log or record; what an endpoint says about a refused key is not repeated.
"""

import asyncio
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Literal, Self

import openai
from openai.types.chat import ChatCompletion

from sae.errors import FailureError, InputError, MonosemError
from sae.interpretation.language_model.config import LanguageModelConfig
from sae.interpretation.language_model.exchange import Outcome, Reply, Request
from services.metrics import Monitor
from services.pace import Pace
from services.spending import Spending

KEY_VARIABLE = "OPENAI_API_KEY"
FIRST_WAIT_SECONDS, LONGEST_BACKOFF_SECONDS = 0.5, 60.0
PROBE_ATTEMPTS = 2
MOST_REJECTED = 20  # in a row: then it is not the questions
SAID = 200  # characters of an endpoint's words in a message
# How vLLM, llama.cpp, Ollama, OpenAI and others say that a prompt does not fit.
_TOO_LONG = ("context length", "context size", "context window", "maximum context", "too long", "too many tokens", "max_model_len", "maximum length")
PROBE = Request("probe", ({"role": "user", "content": "Answer with the one word: ready"},), 16, 2)

ErrorKind = Literal["rate_limited", "server", "timeout", "connection", "malformed"]


@dataclass(frozen=True)
class Trouble:
    """A failed attempt that is worth repeating.

    Attributes:
        kind: of trouble.
        words: what to tell.
        wait_seconds: asked for by the endpoint.
        unknown: it may have been answered, and paid for.
    """

    kind: ErrorKind
    words: str
    wait_seconds: float = 0.0
    unknown: bool = False


@dataclass(frozen=True)
class Refusal:
    """A failed attempt that would fail again.

    Attributes:
        outcome: of this question, where others may be answered; None where none will be.
        words: what to tell.
    """

    outcome: Outcome | None
    words: str


class LanguageModel:
    """Answers requests; for the tasks of one event loop, as a context.

    Args:
        config: the endpoint, and the limits.
        spending: the account that every attempt goes through.
        monitor: told of the `monosem_llm_*` metrics.

    Raises:
        InputError: OpenAI's own endpoint without a key.
    """

    def __init__(self, config: LanguageModelConfig, spending: Spending, monitor: Monitor | None = None) -> None:
        key = os.environ.get(KEY_VARIABLE)
        self.url = config.base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
        if not key and "api.openai.com" in self.url:
            raise InputError(f"{self.url} needs a key: set {KEY_VARIABLE} in the environment, or give interpretation.language_model.base_url")
        self.config, self.spending, self.monitor = config, spending, monitor
        self._key = key
        self._client = openai.AsyncOpenAI(api_key=key or "none", base_url=self.url, max_retries=0, timeout=config.limits.timeout_seconds)
        self._slots = asyncio.Semaphore(config.limits.concurrency)
        self._pace = Pace(config.limits.requests_per_minute, config.limits.tokens_per_minute)
        self._rejected = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._client.close()

    async def probe(self) -> None:
        """Ask one small question, so that a wrong endpoint, key or model is known before any other is sent.

        Raises:
            InputError: the endpoint does not answer, or refuses.
        """
        reply = await self._ask(PROBE, PROBE_ATTEMPTS, lambda words: InputError(f"{self.url} does not answer ({words}): check base_url, or start it"))
        if reply.outcome in ("rejected", "too_long"):
            raise InputError(f"{self.url} rejects requests for the model {self.config.model!r} ({reply.text}): check model and replies.*")

    async def ask(self, request: Request) -> Reply:
        """Answer a request, or say why it cannot be.

        Raises:
            BudgetError: it may cost more than is left.
            InputError: the key, the model or the account was refused.
            FailureError: the endpoint failed too often, asks for too long a wait, or rejects everything.
        """
        again = "the same command goes on where this one stopped"
        reply = await self._ask(
            request,
            self.config.limits.attempts,
            lambda words: FailureError(f"{self.url} failed {self.config.limits.attempts} times ({words}): {again}"),
        )
        self._rejected = self._rejected + 1 if reply.outcome == "rejected" else 0
        if self._rejected >= MOST_REJECTED:
            raise FailureError(f"{self.url} rejected {MOST_REJECTED} requests in a row (the last: {reply.text}): {again}")
        return reply

    async def _ask(self, request: Request, attempts: int, give_up: Callable[[str], MonosemError]) -> Reply:
        prompt_tokens, reply_tokens, cost = 0, 0, 0.0  # attempts whose end is not known may have cost something, too
        for attempt in range(1, attempts + 1):
            trouble, reply = await self._attempt(request)
            prompt_tokens, reply_tokens, cost = prompt_tokens + reply.prompt_tokens, reply_tokens + reply.reply_tokens, cost + reply.cost
            if trouble is None:
                return Reply(reply.outcome, reply.text, prompt_tokens, reply_tokens, cost)
            if self.monitor:
                self.monitor.add("monosem_llm_errors_total", 1, kind=trouble.kind)
            if attempt == attempts:
                raise give_up(trouble.words)
            await self._wait(trouble, attempt)
        raise AssertionError("attempts is positive")

    async def _attempt(self, request: Request) -> tuple[Trouble | None, Reply]:
        """One attempt: a reply; or what stood in its way, and what it may have cost."""
        async with self._slots:
            await self._pace.turn(request.expected_prompt_tokens + request.reply_tokens)  # in the slot: a pause holds back who waits for one, too
            await self.spending.reserve(request)
            try:
                completion = await self._client.chat.completions.create(**self._arguments(request))
                if isinstance(completion, ChatCompletion):
                    return None, await self._settled(request, *read_completion(completion), used_tokens(completion, request))
                found: Trouble | Refusal = Trouble("malformed", "its reply is no chat completion", unknown=True)
            except openai.OpenAIError as error:
                found = judge(error, self._key)
            except ValueError:
                found = Trouble("malformed", "its reply is not JSON", unknown=True)
            except BaseException:
                await self._settled(request, "rejected", "", most(request))
                raise
            paid = most(request) if isinstance(found, Trouble) and found.unknown else (0, 0)
            if isinstance(found, Trouble):
                return found, await self._settled(request, "rejected", "", paid)
            reply = await self._settled(request, found.outcome or "rejected", found.words, paid)
            if found.outcome is None:
                raise InputError(f"{self.url} {found.words}")
            return None, reply

    async def _settled(self, request: Request, outcome: Outcome, text: str, used: tuple[int, int]) -> Reply:
        cost = await self.spending.settle(request, *used)
        if self.monitor:
            for direction, tokens in zip(("sent", "received"), used, strict=True):
                self.monitor.add("monosem_llm_tokens_total", tokens, direction=direction)
            self.monitor.add("monosem_llm_cost_dollars_total", cost)
        return Reply(outcome, text, *used, cost)

    async def _wait(self, trouble: Trouble, attempt: int) -> None:
        longest = self.config.limits.longest_wait_seconds
        if trouble.wait_seconds > longest:
            raise FailureError(
                f"{self.url} asks to wait {trouble.wait_seconds:.0f} s, more than limits.longest_wait_seconds ({longest:.0f}): "
                "run the same command again later, it goes on where this one stopped"
            )
        backoff = min(LONGEST_BACKOFF_SECONDS, longest, FIRST_WAIT_SECONDS * 2 ** (attempt - 1))
        wait = max(trouble.wait_seconds, backoff * random.uniform(0.5, 1))
        if trouble.wait_seconds or trouble.kind == "rate_limited":
            self._pace.pause(wait)
        await asyncio.sleep(wait)

    def _arguments(self, request: Request) -> dict[str, Any]:
        replies = self.config.replies
        arguments: dict[str, Any] = {"model": self.config.model, "messages": list(request.messages), replies.limit_field: request.reply_tokens}
        if replies.temperature is not None:
            arguments["temperature"] = replies.temperature
        return arguments | ({"extra_body": replies.extra} if replies.extra else {})


def judge(error: openai.OpenAIError, key: str | None) -> Trouble | Refusal:
    """What to do about an error of the client."""
    if isinstance(error, openai.APITimeoutError):
        return Trouble("timeout", "no reply in time", unknown=True)
    if isinstance(error, openai.APIConnectionError):
        cause = error.__cause__ or error
        return Trouble("connection", _said(str(cause) or type(cause).__name__, key), unknown="Connect" not in type(cause).__name__)
    if not isinstance(error, openai.APIStatusError):
        return Trouble("malformed", _said(str(error), key), unknown=True)
    return _judge_status(error, _said(error.message, key), f"the key in {KEY_VARIABLE}" if key else f"requests without a key (set {KEY_VARIABLE})")


def _judge_status(error: openai.APIStatusError, said: str, held: str) -> Trouble | Refusal:
    status, words = error.status_code, f"HTTP {error.status_code}: {said.removeprefix(f'Error code: {error.status_code} - ')}"
    if status in (401, 403):  # what it says may hold a piece of the key
        return Refusal(None, f"refused {held} (HTTP {status}): check it, and what it may use")
    if status == 404:
        return Refusal(None, f"does not know the model, or is no chat endpoint ({words}): check model and base_url")
    if status == 402 or error.code == "insufficient_quota":
        return Refusal(None, f"says that the account has nothing left ({words}): what is explained stays, the same command goes on")
    if status in (408, 409, 429) or status >= 500:
        return Trouble("rate_limited" if status == 429 else "server", words, _retry_after(error), unknown=status in (408, 504))
    too_long = status == 413 or any(phrase in said.lower() for phrase in _TOO_LONG) or error.code == "context_length_exceeded"
    return Refusal("too_long" if too_long else "rejected", words)


def read_completion(completion: ChatCompletion) -> tuple[Outcome, str]:
    """What became of a question, and the text of its answer; fields that an endpoint leaves out count as empty."""
    choice = completion.choices[0] if completion.choices else None
    message = getattr(choice, "message", None)
    text = getattr(message, "content", None)
    if choice is None or message is None:
        return "empty", ""
    if getattr(message, "refusal", None) or choice.finish_reason == "content_filter":
        return "refused", str(getattr(message, "refusal", None) or text or "")
    if not isinstance(text, str) or not text.strip():
        return ("truncated" if choice.finish_reason == "length" else "empty"), ""
    return ("truncated" if choice.finish_reason == "length" else "answered"), text


def used_tokens(completion: ChatCompletion, request: Request) -> tuple[int, int]:
    """Tokens sent and got as the endpoint counted them; where it did not, as many as there may have been."""
    usage, unknown = completion.usage, most(request)
    counts = (getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None))
    sent, got = (count if isinstance(count, int) and count >= 0 else bound for count, bound in zip(counts, unknown, strict=True))
    return sent, got


def most(request: Request) -> tuple[int, int]:
    """Tokens sent and got, at most."""
    return request.most_prompt_tokens, request.reply_tokens


def _retry_after(error: openai.APIStatusError) -> float:
    headers = error.response.headers
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        return max(0.0, float(headers.get("retry-after", 0)))
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(headers["retry-after"])
    except (ValueError, KeyError):
        return 0.0
    return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - datetime.now(UTC).timestamp())


def _said(words: str, key: str | None) -> str:
    """What an endpoint said: one line, short, without the key."""
    line = " ".join((words.replace(key, "…") if key else words).split())
    return line if len(line) <= SAID else line[: SAID - 1] + "…"
