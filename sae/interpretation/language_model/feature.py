"""One feature from beginning to end: a question for each explanation, the scorers' questions about each, rows of the result."""

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, field, replace
from math import fsum
from typing import Any, TypeVar

import numpy as np

from sae.interpretation.language_model.config import ExplainerName, LanguageModelConfig, ScorerName
from sae.interpretation.language_model.exchange import Ask, Reply, Request, is_divided
from sae.interpretation.language_model.explainers import explanation_request
from sae.interpretation.language_model.material import FeatureMaterial, Vocabulary
from sae.interpretation.language_model.prompts import prompt_digest
from sae.interpretation.language_model.questions import Item, answers_in, batches_of, items_of, scoring_request
from sae.interpretation.language_model.replies import explanation_in, looks_like_refusal
from sae.interpretation.language_model.scores import Answers, confusion, scores_of

T = TypeVar("T")


@dataclass
class Tally:
    """Counts of the questions of one row."""

    outcomes: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    replies: list[Reply] = field(default_factory=list)

    def add(self, request: Request, reply: Reply, outcome: str) -> None:
        """Count one question."""
        self.outcomes[request.purpose][outcome] += 1
        self.replies.append(reply)


@dataclass(frozen=True)
class FeatureInterpreter:
    """Explains and scores features, one call each.

    Args:
        config: what to ask.
        seed: of the choice and order of items.
        vocabulary: of the subject.
    """

    config: LanguageModelConfig
    seed: int
    vocabulary: Vocabulary

    async def rows(self, material: FeatureMaterial, ask: Ask) -> list[dict[str, Any]]:
        """The rows of a feature, one an explainer.

        Raises:
            BudgetError, MonosemError: as `ask` does; what was answered before is in its keeper's hands.
        """
        return [await self._row(explainer, material, ask) for explainer in self.config.explainers]

    def requests(self, material: FeatureMaterial, explanation: str) -> list[Request]:
        """Every question about a feature, if each explanation were `explanation` and nothing had to be asked again: for estimates."""
        asked = []
        for explainer in self.config.explainers:
            asked.append(explanation_request(explainer, material, self.config, self.config.shown_examples))
            for scorer, items in self._items(material).items():
                if not isinstance(items, str):
                    asked += [scoring_request(scorer, batch, explanation, self.config) for batch in batches_of(scorer, items, self.config)]
        return asked

    async def _row(self, explainer: ExplainerName, material: FeatureMaterial, ask: Ask) -> dict[str, Any]:
        tally = Tally()
        explanation, outcome, shown = await self._explain(explainer, material, ask, tally)
        scores, scorers, reasons = dict[str, Any](), dict[str, Any](), list[str]()
        every = self._items(material) if explanation else {}
        asked = {scorer: items for scorer, items in every.items() if not isinstance(items, str)}
        reasons += [f"{scorer}: {items}" for scorer, items in every.items() if isinstance(items, str)]
        answered = await _all(self._score(scorer, items, explanation or "", ask, tally) for scorer, items in asked.items())
        for (scorer, items), answers in zip(asked.items(), answered, strict=True):
            found = scores_of(scorer, items, answers, material)
            scores |= found
            scorers[scorer] = _details(scorer, items, answers)
            if not found:
                reasons.append(f"{scorer}: fewer than half of its answers could be read")
        if material.not_scored_reason:
            reasons = [material.not_scored_reason]
        elif not explanation:
            reasons = ["there is no explanation"]
        return {
            "feature": material.feature,
            "explainer": explainer,
            "explanation": explanation,
            "explanation_outcome": outcome,
            "examples_shown": shown,
            "not_scored_reason": "; ".join(reasons) or None,
            "single_token": material.single_token,
            **scores,
            "num_items": 1 + sum(each["items"] for each in scorers.values()),
            "num_unread": int(explanation is None) + sum(each["unread"] for each in scorers.values()),
            "scorers": json.dumps(scorers),
            "outcomes": json.dumps(tally.outcomes, sort_keys=True),
            "requests": len(tally.replies),
            "prompt_tokens": sum(reply.prompt_tokens for reply in tally.replies),
            "reply_tokens": sum(reply.reply_tokens for reply in tally.replies),
            "cost": fsum(reply.cost for reply in tally.replies),
            "model": self.config.model,
            "prompts": json.dumps({name: prompt_digest(name) for name in (f"explain_{explainer}", *self.config.scorers)}),
        }

    def _items(self, material: FeatureMaterial) -> dict[ScorerName, list[Item] | str]:
        if material.not_scored_reason:
            return {}
        return {scorer: items_of(scorer, material, self.vocabulary, self.seed) for scorer in self.config.scorers}

    async def _explain(self, name: ExplainerName, material: FeatureMaterial, ask: Ask, tally: Tally) -> tuple[str | None, str, int]:
        """The explanation, what became of the question, and how many examples it showed: half as many each time it is too long."""
        shown, rejected = self.config.shown_examples, False
        there = sum(example.strongest > 0 for example in material.shown)  # of 8 that are there, half are 4, though 20 were asked for
        while True:
            request = replace(explanation_request(name, material, self.config, shown), of_rejected=rejected)
            reply = await ask(request)
            explanation = explanation_in(reply.text) if reply.outcome == "answered" else None  # what was cut off may be a draft
            outcome = "answered" if explanation else _unread(reply)
            tally.add(request, reply, outcome)
            if not is_divided(request, reply.outcome):
                return explanation, outcome, shown
            shown, rejected = max(1, min(shown, there) // 2), rejected or reply.outcome == "rejected"

    async def _score(self, scorer: ScorerName, items: list[Item], explanation: str, ask: Ask, tally: Tally) -> Answers:
        answered = await _all(self._ask_about(scorer, batch, explanation, ask, tally) for batch in batches_of(scorer, items, self.config))
        return [answer for answers in answered for answer in answers]

    async def _ask_about(self, scorer: ScorerName, items: list[Item], explanation: str, ask: Ask, tally: Tally, *, rejected: bool = False) -> Answers:
        """The answers to some items: in halves where the question is too long; `rejected`: they are a half of a rejected question."""
        request = replace(scoring_request(scorer, items, explanation, self.config), of_rejected=rejected)
        reply = await ask(request)
        readable = reply.outcome == "answered" or (reply.outcome == "truncated" and scorer == "simulation")  # its lists are whole, each by itself
        answers: Answers = answers_in(scorer, reply.text, items) if readable else [None] * len(items)
        read = sum(answer is not None for answer in answers)
        tally.add(request, reply, "answered" if read == len(items) else "partly_read" if read else _unread(reply))
        if not is_divided(request, reply.outcome):
            return answers
        middle, rejected = len(items) // 2, rejected or reply.outcome == "rejected"
        halves = await _all(self._ask_about(scorer, half, explanation, ask, tally, rejected=rejected) for half in (items[:middle], items[middle:]))
        return [*halves[0], *halves[1]]


async def _all(questions: Iterable[Awaitable[T]]) -> list[T]:
    """All results; an error is raised only when every question has ended, so that no answer that was paid for is lost."""
    results = await asyncio.gather(*questions, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


def _unread(reply: Reply) -> str:
    """Why a reply gave nothing."""
    if reply.outcome != "answered":
        return reply.outcome
    return "refused" if looks_like_refusal(reply.text) else "unreadable"


def _details(scorer: ScorerName, items: list[Item], answers: Answers) -> dict[str, Any]:
    """Count the items that were asked and read, and for labels those that were judged correctly."""
    read = [(item, answer) for item, answer in zip(items, answers, strict=True) if answer is not None]
    details: dict[str, Any] = {"items": len(items), "unread": len(items) - len(read)}
    if scorer == "simulation" or not read:
        return details
    details |= confusion(read)
    right: dict[str, list[bool]] = {}
    for item, answer in read:
        if item.example is not None:
            right.setdefault(str(item.example.interval) if item.truth[0] else item.example.kind, []).append(item.truth == answer)
    if right:
        details["right_by_kind"] = {kind: float(np.mean(right[kind])) for kind in sorted(right)}
    return details
