"""Harvest: a pool of actors runs the subject model over the corpus and fills a store with its activations.

The unit of work is a shard: some hundreds of sequences, all hookpoints in one pass. Shards with receipts are skipped, so an interrupted
harvest continues where it stood, and a finished one returns at once. A lease keeps two harvests from filling one store at the same time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt

from sae.config import Config, Name, Seed, as_list, refuse_repetition
from sae.corpus.packing import TokenCorpus
from sae.devices import device
from sae.errors import InputError
from sae.execution import Executor, InProcess, PoolOptions, QueueOptions
from sae.log import log
from sae.monitor import Monitor
from sae.storage import Place, absolute_url
from sae.storage.lease import hold_lease
from sae.store.harvest_worker import HarvestReport, HarvestWorker
from sae.store.lost import forget_lost, lost_receipts
from sae.store.manifest import MANIFEST_KEY, StoreManifest, StorePlan, finish_store, missing_shards, start_store
from sae.store.schema import Compression, StoreDtype
from sae.subject.model import Subject, SubjectConfig

STAGE = "harvest/tokens"
Hookpoints = Annotated[list[Name], BeforeValidator(as_list), AfterValidator(refuse_repetition)]


class HarvestConfig(Config):
    """Configuration of the harvest: the activations to store, and the workers."""

    hookpoints: Hookpoints = Field(
        default=["blocks.0.mlp.hook_post"], min_length=1, max_length=256, description="TransformerLens names, all harvested in one pass"
    )
    tokens_per_sequence: PositiveInt | None = Field(
        default=None, le=2**20, description="tokens drawn from each sequence; null takes all that are not special"
    )
    num_sequences: PositiveInt | None = Field(
        default=None, le=10**10, description="sequences to harvest, from the first on; null takes the training split"
    )
    dtype: StoreDtype = Field(default="float16", description="precision of the stored activations")
    compression: Compression = Field(default="none", description="of the activations within a shard; zstd takes less room and more time")
    sequences_per_shard: PositiveInt = Field(
        default=256, le=10**6, description="sequences of a shard, the unit of work and of repetition after a failure"
    )
    sequences_per_forward: PositiveInt = Field(default=32, le=65_536, description="sequences that run through the model at once")
    seed: Seed = Field(default=0, description="seed of the drawn tokens and of the order of rows within a shard")
    num_workers: PositiveInt = Field(default=2, le=10_000, description="actors, each with its own copy of the model")
    pool: QueueOptions = Field(default_factory=QueueOptions, description="what each actor occupies, its attempts and timeouts")


@dataclass(frozen=True)
class SubjectFacts:
    """Facts about the subject model in a store's plan."""

    digest: str
    tokenizer_digest: str
    context_length: int
    special_token_ids: list[int]
    widths: dict[str, int]


class SubjectProbe:
    """A worker that loads the subject model to describe it, so that the driver needs neither its memory nor its device."""

    def __init__(self, subject: SubjectConfig) -> None:
        self.subject = Subject.load(subject, device())

    def run(self, hookpoints: list[str]) -> SubjectFacts:
        """Describe the model.

        Raises:
            HookpointError: it lacks one of the hookpoints.
        """
        tokenizer = self.subject.tokenizer
        return SubjectFacts(
            digest=self.subject.digest,
            tokenizer_digest=tokenizer.digest,
            context_length=self.subject.context_length,
            special_token_ids=sorted(tokenizer.special_token_ids),
            widths={hookpoint: self.subject.width(hookpoint) for hookpoint in hookpoints},
        )


@dataclass(frozen=True)
class Beside:
    """Settings for a harvest that runs concurrently with training.

    Attributes:
        turns: when each shard is wanted.
        check: called after each shard; raises where nobody waits any more.
    """

    turns: list[int]
    check: Callable[[], None]


def harvest(
    config: HarvestConfig,
    corpus_url: str,
    store_url: str,
    subject: SubjectConfig,
    executor: Executor | None = None,
) -> StoreManifest:
    """Fill a store with the activations of a corpus' training split.

    The result depends on neither the number of workers nor on who was killed when: equal plans give equal bytes on machines of
    one kind. (A matrix product may round differently on other processors or with other numbers of threads. It also does with other
    `sequences_per_forward`, which is why the plan holds that number.)

    Args:
        config: which activations, and who does the work.
        corpus_url: a finished corpus.
        store_url: where the store goes; an unfinished one of the same plan is continued, a finished one returned.
        subject: the model.
        executor: runs the model (None: this process); its monitor is told of progress.

    Raises:
        UserError: no such model, corpus or hookpoint; a corpus of another tokenizer; a store of another plan, or one that another harvest is filling.
        FailureError: a shard that failed too often.
    """
    corpus, executor = TokenCorpus(Place(corpus_url)), executor or InProcess()
    facts = describe_subject(subject.absolute(), config.hookpoints, config.pool, executor)
    return fill_store(config, make_plan(config, corpus, subject, facts), corpus_url, store_url, subject, executor)


def fill_store(
    config: HarvestConfig,
    plan: StorePlan,
    corpus_url: str,
    store_url: str,
    subject: SubjectConfig,
    executor: Executor | None = None,
    beside: Beside | None = None,
) -> StoreManifest:
    """`harvest` with a plan that is already made, and beside whoever waits for its shards."""
    executor, place = executor or InProcess(), Place(store_url)
    monitor = executor.monitor
    total = plan.num_sequences * plan.context_length
    if place.exists(MANIFEST_KEY):
        manifest = finish_store(place, plan)
        if not lost_receipts(place, plan):
            monitor.progress(STAGE, total, total)
            return manifest
    with hold_lease(place) as lease:
        start_store(place, plan)
        if lost := forget_lost(place, plan):
            log("objects_lost", store=place.url, shards=len(lost), first=lost[0], then="they are harvested again")
        missing = missing_shards(place, plan)
        if beside:
            missing.sort(key=beside.turns.__getitem__)
        done, left = total - plan.context_length * sum(last - first for first, last in map(plan.shard_range, missing)), len(missing)
        _tell(monitor, done, total, left)
        arguments = (plan, absolute_url(corpus_url), absolute_url(store_url), subject.absolute())
        for _, report in executor.run(HarvestWorker, arguments, missing, config.num_workers, config.pool):
            lease.check()
            if beside:
                beside.check()
            done, left = done + report.tokens, left - 1
            _tell(monitor, done, total, left, report)
        lease.check()
        return finish_store(place, plan)


def _tell(monitor: Monitor, done: int, total: int, left: int, report: HarvestReport | None = None) -> None:
    if report:
        monitor.add("monosem_harvest_tokens_total", report.tokens)
        monitor.add("monosem_harvest_rows_total", report.rows)
        monitor.add("monosem_store_bytes_total", report.written_bytes)
        for seconds in report.put_seconds:
            monitor.set("monosem_store_put_seconds", seconds)
    monitor.set("monosem_harvest_queue_shards", left)
    monitor.progress(STAGE, done, total)


def describe_subject(subject: SubjectConfig, hookpoints: list[str], pool: PoolOptions, executor: Executor) -> SubjectFacts:
    """Describe the subject model by a worker."""
    [(_, facts)] = executor.run(SubjectProbe, (subject,), [hookpoints], 1, pool)
    found: SubjectFacts = facts
    return found


def make_plan(config: HarvestConfig, corpus: TokenCorpus, subject: SubjectConfig, facts: SubjectFacts) -> StorePlan:
    """The plan of a store, from what was asked for and what there is.

    Raises:
        InputError: the corpus does not fit the subject model, or is smaller than what was asked for.
    """
    manifest, available = corpus.manifest, corpus.num_sequences("train")
    if manifest.tokenizer_digest != facts.tokenizer_digest:
        raise InputError(f"{corpus.place.url} was made with another tokenizer than that of {subject.model!r}: prepare a corpus with this model")
    if manifest.config.context_length > facts.context_length:
        raise InputError(
            f"{corpus.place.url} has sequences of {manifest.config.context_length} tokens, {subject.model!r} takes at most {facts.context_length}: "
            "choose a smaller corpus.context_length"
        )
    if (config.num_sequences or 0) > available:
        raise InputError(f"{corpus.place.url} has {available:,} sequences, harvest.num_sequences asks for {config.num_sequences:,}: ask for fewer")
    return StorePlan(
        subject=subject.model,
        subject_digest=facts.digest,
        corpus_digest=manifest.digest,
        context_length=manifest.config.context_length,
        hookpoints=facts.widths,
        dtype=config.dtype,
        compression=config.compression,
        num_sequences=config.num_sequences or available,
        sequences_per_shard=config.sequences_per_shard,
        sequences_per_forward=config.sequences_per_forward,
        tokens_per_sequence=config.tokens_per_sequence,
        special_token_ids=facts.special_token_ids,
        seed=config.seed,
    )
