"""Explanations in words for every source of a finished interpretation: many questions at once, one feature after the other, within a budget.

It runs in the driver: the work is waiting for an endpoint. Features are taken in a seeded order, one of each source in turn, so that whatever
ends the work early leaves all sources with the same budget and a fair sample of each.
"""

import asyncio
import contextlib
import functools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from typing import Any

from sae.interpretation.language_model.config import LanguageModelConfig
from sae.interpretation.language_model.exchange import BudgetError, Reply, Request
from sae.interpretation.language_model.feature import FeatureInterpreter
from sae.interpretation.language_model.journal import ExplanationDirectory, Journal
from sae.interpretation.language_model.material import SourceMaterial, Vocabulary
from sae.interpretation.language_model.prompts import prompt_digest
from sae.interpretation.language_model.records import EXPLANATIONS_KEY, REPLIES_KEY, SPENT_KEY
from sae.interpretation.language_model.replies import LONGEST_EXPLANATION
from sae.interpretation.language_model.summary import summarise_explanations
from sae.interpretation.summary_record import put_summary, read_summary
from sae.log import log
from sae.monitor import Monitor
from sae.records import digests_of
from sae.storage import Place
from sae.storage.lease import Lease, hold_lease
from services.ending import afterwards
from services.language_model import LanguageModel
from services.shared_write import SharedWrite
from services.spending import Spending, Spent, read_spent

STAGE = "explain in words/features"
USUAL_EXPLANATION = 150  # characters of a sentence, for estimates


@dataclass(frozen=True)
class Estimate:
    """Estimate of what explaining the rest of a source will take.

    Attributes:
        features: sampled features that are not finished.
        requests: questions, none asked again.
        prompt_tokens: about as many as will be sent.
        reply_tokens: about as many as will come.
        cost: US dollars for these.
        most_cost: US dollars for as many bytes as tokens and replies as long as they may be.
    """

    source: str
    features: int
    requests: int
    prompt_tokens: int
    reply_tokens: int
    cost: float
    most_cost: float


def explain_in_words(
    config: LanguageModelConfig, seed: int, vocabulary: Vocabulary, output_url: str, sources: list[str], monitor: Monitor | None = None
) -> dict[str, dict[str, Any]]:
    """Explain and score a sample of the features of every source with a language model.

    Writes `<output>/<source>/llm_explanations.parquet` and the other records of `sae.interpretation.language_model.records`, and adds
    `language_model` to each source's summary. A feature that is finished is not asked about again. A budget that is reached ends the
    work, not the run: what is finished is written, and the same command with a larger `max_cost` goes on.

    Args:
        config: what to ask, of whom, within which limits.
        seed: of the sample, of the order of items, and of the bootstrap.
        vocabulary: of the subject model.
        output_url: the directory of the interpretation.
        sources: its finished sources.
        monitor: told of progress and of the `monosem_llm_*` metrics.

    Returns:
        `summary.json` of every source by name.

    Raises:
        FailureError: the endpoint failed too often; or an example serves explaining and scoring.
        InputError: the endpoint does not answer, or refuses the key or the model; or a source is not finished.
        LeaseError: another run is at it.
        PlanError: a source was explained with other settings.
    """
    with hold_lease(Place(output_url)) as lease:  # two would ask, and pay for, the same twice
        work = _Work(config, seed, vocabulary, Place(output_url), sources, monitor, lease)
        for directory in work.directories.values():
            directory.begin()
        summaries = dict[str, dict[str, Any]]()
        with afterwards("tables of explanations in words", lambda: summaries.update(work.finish())):
            if work.left:
                asyncio.run(work.run())
    return summaries


def estimate(config: LanguageModelConfig, seed: int, vocabulary: Vocabulary, output_url: str, sources: list[str]) -> list[Estimate]:
    """Estimate what `explain_in_words` would take, without sending anything.

    Raises:
        InputError, FailureError, PlanError: as `explain_in_words`.
    """
    work = _Work(config, seed, vocabulary, Place(output_url), sources)
    return [work.estimate(source) for source in sources]


class _Work:
    """One run: what there is, what is left, what it has cost."""

    def __init__(
        self,
        config: LanguageModelConfig,
        seed: int,
        vocabulary: Vocabulary,
        output: Place,
        sources: list[str],
        monitor: Monitor | None = None,
        lease: Lease | None = None,
    ) -> None:
        self.config, self.seed, self.output, self.monitor, self.lease = config, seed, output, monitor, lease
        self.interpreter = FeatureInterpreter(config, seed, vocabulary)
        self.materials = {name: SourceMaterial(output.child(name), name, config.max_features, seed, vocabulary) for name in sources}
        prompts = {name: prompt_digest(name) for name in (*(f"explain_{each}" for each in config.explainers), *config.scorers)}
        settings = config.determining() | {"prompts": prompts, "seed": seed}
        self.directories = {name: ExplanationDirectory(output.child(name), settings) for name in sources}
        self.spent = read_spent(output, SPENT_KEY)
        self.left = list(self._left())
        self._ended: BaseException | None = None

    def _left(self) -> Iterator[tuple[str, int]]:
        """List what is not finished: the first feature of each source, the second of each, and so on."""
        queues = [
            [(name, feature) for feature in material.features if feature not in self.directories[name].finished]
            for name, material in self.materials.items()
        ]
        return (entry for rank in zip_longest(*queues) for entry in rank if entry is not None)

    async def run(self) -> None:
        """Do what is left."""
        total = sum(len(material.features) for material in self.materials.values())
        done = total - len(self.left)
        spending = Spending(self.config.max_cost, self.config.prices, self.spent, self._write_spent)
        if self.monitor:
            self.monitor.set("monosem_llm_budget_dollars", self.config.max_cost or 0.0)
            self.monitor.add("monosem_llm_cost_dollars_total", self.spent.cost)  # of earlier runs: the budget is for all of them
            self.monitor.progress(STAGE, done, total)
        waiting = iter(self.left)
        async with LanguageModel(self.config, spending, self.monitor) as model:
            with contextlib.suppress(BudgetError):
                await self._stopping(model.probe())

            async def work() -> None:
                nonlocal done
                for source, feature in waiting:
                    if self._ended:
                        return
                    if await self._feature(model, source, feature):
                        done += 1
                        if self.monitor:
                            self.monitor.progress(STAGE, done, total)

            # Few at a time, all their scorers at once: what ends the work early should not leave many features half done.
            await asyncio.gather(*(work() for _ in range(max(2, self.config.limits.concurrency // 4))))
        if isinstance(self._ended, BudgetError):
            log("language_model_budget_reached", spent=self.spent.cost, max_cost=self.config.max_cost, features_left=total - done)
        elif self._ended:
            raise self._ended

    async def _feature(self, model: LanguageModel, source: str, feature: int) -> bool:
        """Explain and score one feature; returns whether it is finished."""
        directory, material = self.directories[source], self.materials[source].of(feature)
        journal = directory.journal(feature)
        journal.forget_failures()
        writing = SharedWrite(lambda: replace(journal, replies=dict(journal.replies)), functools.partial(self._store, directory))

        async def ask(request: Request) -> Reply:
            known = journal.find(request.digest)
            if known:
                return known
            if self._ended:
                raise self._ended
            reply = await self._stopping(model.ask(request))
            journal.keep(request, reply)
            await self._stopping(writing.now())  # an answer counts when it is written: a kill loses none that was counted
            return reply

        try:
            journal.rows = await self.interpreter.rows(material, ask)
        except Exception as error:  # noqa: BLE001 - kept for the end, when all that is under way has been answered and written down
            self._ended = self._ended or error
        finally:
            if journal.replies:
                await writing.now()
        self._count(journal)
        return journal.rows is not None

    def _store(self, directory: ExplanationDirectory, journal: Journal) -> None:
        self._check_lease()
        directory.write(journal)

    def _write_spent(self, spent: Spent) -> None:
        self._check_lease()
        self.output.put_sealed(SPENT_KEY, asdict(spent))

    def _check_lease(self) -> None:
        if self.lease:
            self.lease.check()

    async def _stopping(self, asking: Any) -> Any:
        """Return what is asked for; an error stops all others from asking more."""
        try:
            return await asking
        except Exception as error:
            self._ended = self._ended or error
            raise

    def _count(self, journal: Journal) -> None:
        for row in journal.rows or () if self.monitor else ():
            for counts in json.loads(row["outcomes"]).values():
                for outcome, number in counts.items():
                    self.monitor.add("monosem_llm_requests_total", number, outcome=outcome)  # type: ignore[union-attr]

    def finish(self) -> dict[str, dict[str, Any]]:
        """Write the tables and summaries of what is finished; returns the summaries."""
        self._check_lease()
        if self.spent.requests:
            self._write_spent(replace(self.spent, reserved=0.0))
        summaries = {}
        for name, directory in self.directories.items():
            place, features = self.output.child(name), self.materials[name].features
            found = summarise_explanations(directory.compact(), self.config, name, self.seed, features)
            before = read_summary(place).model_dump(mode="json")
            tables = before["tables"] | digests_of(place, (EXPLANATIONS_KEY, REPLIES_KEY))
            summaries[name] = before | {"language_model": found, "tables": tables}
            if summaries[name] != before:
                put_summary(place, summaries[name])
        return summaries

    def estimate(self, source: str) -> Estimate:
        """Estimate the rest of one source."""
        features = [feature for name, feature in self.left if name == source]
        asked, most = list[Request](), 0.0
        for feature in features:
            material = self.materials[source].of(feature)
            asked += self.interpreter.requests(material, "x" * USUAL_EXPLANATION)
            longest = self.interpreter.requests(material, "x" * LONGEST_EXPLANATION)
            most += sum(self.config.prices.cost(request.most_prompt_tokens, request.reply_tokens) for request in longest)
        sent, got = sum(request.expected_prompt_tokens for request in asked), sum(request.expected_tokens for request in asked)
        return Estimate(source, len(features), len(asked), sent, got, self.config.prices.cost(sent, got), most)
