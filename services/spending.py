"""The account of a language model: the most that a request can cost is reserved before it is sent, and replaced by its cost when that is known.

A request's prompt cannot hold more tokens than bytes, and its reply not more than its limit: so the money spent never passes `max_cost`,
whatever is under way at once. What cannot be known (a reply that never came) is counted at the most it can cost. Money is written down
before it is spent, so that a killed run loses none of it: a budget holds over any number of runs.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import NonNegativeFloat, NonNegativeInt

from sae.interpretation.language_model.config import Prices
from sae.interpretation.language_model.exchange import BudgetError, Request
from sae.records import Record, get_record
from sae.storage import Place

REQUESTS_AHEAD = 20  # that a killed run counts as spent at most, though they were not sent


@dataclass
class Spent:
    """Totals of an output, over all its runs."""

    requests: int = 0
    prompt_tokens: int = 0
    reply_tokens: int = 0
    cost: float = 0.0
    reserved: float = 0.0
    """US dollars written down for requests that are yet to be sent or answered; 0 at the end of a run. After a kill they count as spent."""


class SpentRecord(Record):
    """`Spent` as it is stored."""

    requests: NonNegativeInt
    prompt_tokens: NonNegativeInt
    reply_tokens: NonNegativeInt
    cost: NonNegativeFloat
    reserved: NonNegativeFloat


def read_spent(place: Place, key: str) -> Spent:
    """Read what earlier runs spent; nothing where there were none.

    Raises:
        CorruptObjectError, InputError: the record was changed, or is none.
    """
    if not place.exists(key):
        return Spent()
    found = get_record(place, key, SpentRecord)
    return Spent(found.requests, found.prompt_tokens, found.reply_tokens, found.cost + found.reserved)


class Spending:
    """The account of one run; for the tasks of one event loop.

    Args:
        max_cost: US dollars, earlier runs included; None sets no limit.
        prices: of the endpoint.
        spent: by earlier runs; it is added to.
        write_down: called with the account before money may be spent that no account holds yet.
    """

    def __init__(self, max_cost: float | None, prices: Prices, spent: Spent, write_down: Callable[[Spent], None] = lambda _: None) -> None:
        self.max_cost, self.prices, self.spent, self._write_down = max_cost, prices, spent, write_down
        self._written = spent.cost
        self._set_aside, self._under_way = 0.0, 0
        self._changed = asyncio.Condition()

    async def reserve(self, request: Request) -> None:
        """Set aside what a request may cost at most; waits while others may still turn out cheaper than they might be.

        Raises:
            BudgetError: it might cost more than is left, and nothing is under way.
        """
        most = self.most(request)
        async with self._changed:
            while self.max_cost is not None and self.spent.cost + self._set_aside + most > self.max_cost:
                if not self._under_way or self.spent.cost + most > self.max_cost:
                    raise BudgetError(f"a request may cost {most:.6f} dollars, {max(0.0, self.max_cost - self.spent.cost):.6f} are left")
                await self._changed.wait()
            self._set_aside, self._under_way = self._set_aside + most, self._under_way + 1
            if self.spent.cost + self._set_aside > self._written:  # several requests ahead: writing takes longer than a small request
                ahead = self._set_aside + most * REQUESTS_AHEAD
                self.spent.reserved = ahead if self.max_cost is None else min(ahead, self.max_cost - self.spent.cost)
                self._write_down(self.spent)
                self._written = self.spent.cost + self.spent.reserved

    async def settle(self, request: Request, prompt_tokens: int, reply_tokens: int) -> float:
        """Replace what was set aside by what was used; returns its cost in US dollars."""
        cost = self.prices.cost(prompt_tokens, reply_tokens)
        async with self._changed:
            self._under_way -= 1
            self._set_aside = self._set_aside - self.most(request) if self._under_way else 0.0  # no residue of rounding
            self.spent.requests += 1
            self.spent.prompt_tokens += prompt_tokens
            self.spent.reply_tokens += reply_tokens
            self.spent.cost += cost
            self._changed.notify_all()
        return cost

    def most(self, request: Request) -> float:
        """US dollars that a request may cost at most."""
        return self.prices.cost(request.most_prompt_tokens, request.reply_tokens)
