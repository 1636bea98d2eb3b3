"""One question and its answer: what passes between the mathematics here and whoever talks to the endpoint.

Messages are content-addressed: the digest of a request is its name in the journal, so that a question already answered is not paid twice.
"""

import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Literal

from sae.storage import sha256_hex

Message = dict[str, str]
Outcome = Literal["answered", "truncated", "refused", "empty", "too_long", "cut", "rejected", "failed"]
FINAL = ("answered", "truncated", "refused")  # the model's own words; every other outcome is the endpoint's, and the next run asks again
TOO_LARGE = ("too_long", "cut")  # a question of several parts is asked again in halves, as often as that helps
FRAMING_TOKENS = 64  # of a chat template: beginnings, ends and roles of messages, and the system text some templates put before them
LEAST_WORDS = 50  # of a prompt whose count of tokens is compared with its words
BYTES_PER_TOKEN = 3.0  # of mixed code and English, for estimates; no bound
_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True)
class Request:
    """A question.

    Attributes:
        purpose: `explain`, or the scorer.
        messages: role and content of each.
        reply_tokens: the longest reply that is allowed.
        expected_tokens: the reply that is expected, for estimates.
        divisible: whether it can be asked again in smaller pieces.
        of_rejected: whether it is such a piece of a question that the endpoint rejected.
    """

    purpose: str
    messages: tuple[Message, ...]
    reply_tokens: int
    expected_tokens: int
    divisible: bool = False
    of_rejected: bool = False

    @property
    def digest(self) -> str:
        """SHA-256 of what is asked."""
        return sha256_hex(json.dumps([self.messages, self.reply_tokens], ensure_ascii=False).encode())

    @property
    def prompt_bytes(self) -> int:
        """UTF-8 bytes of all messages."""
        return sum(len(message["content"].encode()) for message in self.messages)

    @property
    def most_prompt_tokens(self) -> int:
        """More tokens than any tokenizer makes of it: a token stands for at least one byte."""
        return self.prompt_bytes + FRAMING_TOKENS

    @property
    def least_prompt_tokens(self) -> int:
        """Fewer tokens than any usual tokenizer makes of it: half as many as it has words. 0 for a short prompt, where that says nothing."""
        words = sum(len(_WORD.findall(message["content"])) for message in self.messages)
        return words // 2 if words >= LEAST_WORDS else 0

    @property
    def expected_prompt_tokens(self) -> int:
        """About as many as it will be."""
        return round(self.prompt_bytes / BYTES_PER_TOKEN) + FRAMING_TOKENS // 4


def is_divided(request: Request, outcome: Outcome) -> bool:
    """Say whether a question is asked again in smaller pieces.

    Servers have no common word for a prompt that is too long, so a rejected one is halved, too, but only once.
    """
    return request.divisible and (outcome in TOO_LARGE or (outcome == "rejected" and not request.of_rejected))


@dataclass(frozen=True)
class Reply:
    """An answer, or why there is none.

    Attributes:
        outcome: `answered`; `truncated` at the limit of tokens, or in the middle of a thought; `refused` by the model or a filter; `empty`;
            `too_long` for the model's context; `cut`: the server read a part of the prompt only; `rejected` by the endpoint for another
            reason; `failed`: the endpoint failed at this question each time, and answered others.
        text: what the model wrote; of the last four outcomes what the endpoint did.
        prompt_tokens: tokens sent, all attempts together.
        reply_tokens: tokens got, all attempts together; what cannot be known (a time-out) counts as much as it may have been.
        cost: US dollars.
    """

    outcome: Outcome
    text: str
    prompt_tokens: int = 0
    reply_tokens: int = 0
    cost: float = 0.0

    def as_json(self) -> dict[str, object]:
        """For the journal."""
        return asdict(self)


Ask = Callable[[Request], Awaitable[Reply]]
"""Whoever answers. It may raise `BudgetError` instead, or a `MonosemError` where nothing further can be answered."""


class BudgetError(Exception):
    """The next request might cost more than is left."""
