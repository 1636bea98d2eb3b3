"""A client of any OpenAI-compatible endpoint (vLLM, Ollama, llama.cpp, transformers, hosted): patient, within its limits, never beyond its budget.

What a response means is judged by `sae.interpretation.language_model.judgement`; here is what follows from it. The key comes from
OPENAI_API_KEY alone and is in no message, log or record; what an endpoint says about a refused key is not repeated.
"""

import asyncio
import os
import random
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Any, Literal, Self

from sae.errors import FailureError, InputError, MonosemError
from sae.interpretation.language_model.config import KEY_VARIABLE, LanguageModelConfig, url_problem
from sae.interpretation.language_model.exchange import FINAL, TOO_LARGE, Outcome, Reply, Request, is_divided
from sae.interpretation.language_model.judgement import Judgement
from sae.log import log
from sae.monitor import Monitor
from services.api_key import read_key, without_key
from services.endpoint import Endpoint
from services.pace import Pace
from services.spending import Spending

URL_VARIABLE, OWN_URL = "OPENAI_BASE_URL", "https://api.openai.com/v1"
FIRST_WAIT_SECONDS, LONGEST_BACKOFF_SECONDS = 0.5, 60.0
PROBE_ATTEMPTS = 3  # where nothing answers, or no chat endpoint does: more seldom helps
MOST_IN_A_ROW = 20  # questions without an answer: then it is not the questions
AGAIN = "run the same command again to continue"
PROBE = Request("probe", ({"role": "user", "content": "Answer with the one word: ready"},), 16, 2)

ErrorKind = Literal["rate_limited", "server", "timeout", "connection", "malformed"]
# Verdicts that another attempt may change, by their name in `monosem_llm_errors_total`.
PASSING: dict[str, ErrorKind] = {
    "rate_limited": "rate_limited",
    "failed": "server",
    "unreadable": "malformed",
    "timed_out": "timeout",
    "broken": "connection",
    "unreachable": "connection",
}
# Verdicts that may concern one question alone, where others are answered meanwhile.
OF_A_QUESTION = ("failed", "unreadable", "timed_out")


class LanguageModel:
    """Answers requests; for the tasks of one event loop, as a context.

    Args:
        config: the endpoint, and the limits.
        spending: the account that every attempt goes through.
        monitor: told of the `monosem_llm_*` metrics.

    Raises:
        InputError: OpenAI's own endpoint without a key; or a key or an address that cannot be used.
    """

    def __init__(self, config: LanguageModelConfig, spending: Spending, monitor: Monitor | None = None) -> None:
        self.url = (config.base_url or _url_of_environment() or OWN_URL).rstrip("/")
        self._key = read_key()
        if not self._key and "api.openai.com" in self.url:
            raise InputError(f"{self.url} needs a key: set {KEY_VARIABLE} in the environment, or give interpretation.language_model.base_url")
        self.config, self.spending, self.monitor = config, spending, monitor
        self._endpoint = Endpoint(self.url, self._key or "none", config.limits.timeout_seconds)
        self._slots = asyncio.Semaphore(config.limits.concurrency)
        self._pace = Pace(config.limits.requests_per_minute, config.limits.tokens_per_minute)
        self._answered, self._in_a_row, self._was_cut = 0, 0, False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._endpoint.close()

    async def probe(self) -> None:
        """Ask one small question, so that a wrong endpoint, key or model is known before any other is sent.

        Raises:
            InputError: the endpoint does not answer, or refuses.
            FailureError: it asks for too long a wait.
        """
        found, _ = await self._ask(PROBE, self._not_reached)
        if found.verdict == "forbidden":
            raise InputError(self._key_refused(found))
        if found.verdict in ("rejected", "too_long"):
            raise InputError(f"{self.url} rejects requests for the model {self.config.model!r} ({found.text}): check model and replies.*")
        if found.verdict == "empty" and found.text:
            raise InputError(f"{self.url} gives no answer ({found.text}): check base_url and model")

    async def ask(self, request: Request) -> Reply:
        """Answer a request, or say why it cannot be.

        Raises:
            BudgetError: it may cost more than is left.
            InputError: the key, the model or the account was refused.
            FailureError: the endpoint failed too often, asks for too long a wait, or answers nothing.
        """
        answered = self._answered

        def give_up(found: Judgement, attempts: int) -> MonosemError | None:
            if found.verdict in OF_A_QUESTION and self._answered > answered:
                return None
            return FailureError(f"{self.url} failed {attempts} times ({found.text}): {AGAIN}")

        found, reply = await self._ask(request, give_up)
        if reply.outcome in FINAL:
            self._answered, self._in_a_row = self._answered + 1, 0
        elif reply.outcome not in TOO_LARGE and not is_divided(request, reply.outcome):  # those say something of the question, not of the endpoint
            self._in_a_row += 1
        if self._in_a_row >= MOST_IN_A_ROW:
            raise self._no_answers(found, reply)
        return reply

    def _not_reached(self, found: Judgement, attempts: int) -> MonosemError:
        if found.verdict == "unreadable":
            return InputError(f"{self.url} does not answer as a chat endpoint does ({found.text}): check base_url, which usually ends in /v1")
        if found.verdict == "unreachable":
            return InputError(f"{self.url} does not answer ({found.text}): check base_url, or start it")
        return InputError(
            f"{self.url} does not answer yet ({found.text}), {attempts} attempts long. Something is there, but it is busy or still starting. "
            "Wait until it is ready and run the same command again, or raise limits.attempts"
        )

    def _no_answers(self, found: Judgement, reply: Reply) -> MonosemError:
        if found.verdict == "forbidden":
            return InputError(self._key_refused(found))
        did = "rejected" if reply.outcome == "rejected" else "gave no usable answer to"
        return FailureError(f"{self.url} {did} {MOST_IN_A_ROW} requests in a row (the last: {reply.text or reply.outcome}): {AGAIN}")

    async def _ask(self, request: Request, give_up: Callable[[Judgement, int], MonosemError | None]) -> tuple[Judgement, Reply]:
        """Ask until the answer will not change; attempts whose end is not known may have cost something, too."""
        prompt_tokens, reply_tokens, cost, attempt = 0, 0, 0.0, 0
        while True:
            attempt += 1
            found, (sent, received), paid = await self._attempt(request)
            prompt_tokens, reply_tokens, cost = prompt_tokens + sent, reply_tokens + received, cost + paid
            if found.verdict not in PASSING:
                self._raise_where_nothing_helps(found)
                break
            if self.monitor:
                self.monitor.add("monosem_llm_errors_total", 1, kind=PASSING[found.verdict])
            if attempt >= self._attempts(request, found):
                if error := give_up(found, attempt):
                    raise error
                break
            await self._wait(request, found, attempt)
        return found, Reply(self._outcome(request, found), found.text, prompt_tokens, reply_tokens, cost)

    def _attempts(self, request: Request, found: Judgement) -> int:
        attempts = self.config.limits.attempts
        return min(attempts, PROBE_ATTEMPTS) if request is PROBE and found.verdict in ("unreachable", "unreadable") else attempts

    def _outcome(self, request: Request, found: Judgement) -> Outcome:
        if found.verdict in PASSING:
            return "failed"
        if found.verdict == "forbidden":
            return "rejected"
        return found.verdict  # type: ignore[return-value]  # the others were raised

    async def _attempt(self, request: Request) -> tuple[Judgement, tuple[int, int], float]:
        """One attempt: what came of it, the tokens it used, and what it cost."""
        async with self._slots:
            await self._pace.turn(request.expected_prompt_tokens + request.reply_tokens)  # in the slot: a pause holds back who waits for one, too
            await self.spending.reserve(request)
            try:
                found = await self._endpoint.post(self._arguments(request))
            except BaseException:
                await self._settled(request, most(request))
                raise
            found = self._whole(request, replace(found, text=without_key(found.text, self._key)))
            counts = zip((found.prompt_tokens, found.reply_tokens), most(request), strict=True)
            sent, received = (bound if count is None else count for count, bound in counts)
            return found, (sent, received), await self._settled(request, (sent, received))

    def _whole(self, request: Request, found: Judgement) -> Judgement:
        """The judgement; `cut` where the server read fewer tokens than the prompt can have."""
        if found.verdict not in ("answered", "truncated", "empty") or not found.prompt_tokens or found.prompt_tokens >= request.least_prompt_tokens:
            return found
        characters = sum(len(message["content"]) for message in request.messages)
        words = f"the server read {found.prompt_tokens} tokens of a prompt of {characters:,} characters: its context is smaller than the prompt"
        if not self._was_cut:
            log("language_model_cut_a_prompt", tokens=found.prompt_tokens, characters=characters, advice="raise the context length of the server")
        self._was_cut = True
        return replace(found, verdict="cut", text=words)

    async def _settled(self, request: Request, used: tuple[int, int]) -> float:
        cost = await self.spending.settle(request, *used)
        if self.monitor:
            for direction, tokens in zip(("sent", "received"), used, strict=True):
                self.monitor.add("monosem_llm_tokens_total", tokens, direction=direction)
            self.monitor.add("monosem_llm_cost_dollars_total", cost)
        return cost

    async def _wait(self, request: Request, found: Judgement, attempt: int) -> None:
        longest = self.config.limits.longest_wait_seconds
        if found.wait_seconds > longest:
            raise FailureError(
                f"{self.url} asks to wait {found.wait_seconds:.0f} s, more than limits.longest_wait_seconds ({longest:.0f}): "
                "run the same command again later, it goes on where this one stopped"
            )
        backoff = min(LONGEST_BACKOFF_SECONDS, longest, FIRST_WAIT_SECONDS * 2 ** min(attempt - 1, 30))
        wait = max(found.wait_seconds, backoff * random.uniform(0.5, 1))
        if request is PROBE:
            log("language_model_not_ready", endpoint=self.url, attempt=attempt, of=self._attempts(request, found), wait_seconds=wait, said=found.text)
        if found.wait_seconds or found.verdict == "rate_limited":
            self._pace.pause(wait)
        await asyncio.sleep(wait)

    def _raise_where_nothing_helps(self, found: Judgement) -> None:
        if found.verdict == "key_refused":
            raise InputError(self._key_refused(found))
        if found.verdict == "not_there":
            raise InputError(f"{self.url} does not know the model, or is no chat endpoint ({found.text}): check model and base_url")
        if found.verdict == "no_money":
            raise InputError(
                f"{self.url} says that the account has nothing left ({found.text}): what is explained is kept. Add credit and run it again"
            )

    def _key_refused(self, found: Judgement) -> str:
        held = f"the key in {KEY_VARIABLE}" if self._key else f"requests without a key (set {KEY_VARIABLE})"
        return f"{self.url} refused {held} ({found.text.partition(':')[0]}): check it, and what it may use"  # its words may hold a piece of the key

    def _arguments(self, request: Request) -> dict[str, Any]:
        replies = self.config.replies
        arguments: dict[str, Any] = {"model": self.config.model, "messages": list(request.messages), replies.limit_field: request.reply_tokens}
        if replies.temperature is not None:
            arguments["temperature"] = replies.temperature
        return arguments | replies.extra


def most(request: Request) -> tuple[int, int]:
    """Tokens sent and got, at most."""
    return request.most_prompt_tokens, request.reply_tokens


def _url_of_environment() -> str | None:
    url = os.environ.get(URL_VARIABLE, "").strip()
    if url and (problem := url_problem(url)):
        raise InputError(f"{URL_VARIABLE} {problem}")
    return url or None
