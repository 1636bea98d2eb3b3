"""Harvest: a pool of actors runs the subject model over the corpus and fills a store with its activations.

The unit of work is a shard: some hundreds of sequences, all hookpoints in one pass. Shards with receipts are skipped, so an interrupted
harvest continues where it stood, and a finished one returns at once.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveInt

from sae.config import Config
from sae.corpus.packing import TokenCorpus
from sae.errors import HookpointError, InputError, PlanError
from sae.storage import Place, absolute_url
from sae.store.manifest import MANIFEST_KEY, StoreManifest, StorePlan, finish_store, missing_shards, start_store
from sae.store.schema import TORCH_DTYPES, StoreDtype, to_stored_dtype
from sae.store.writer import write_shard
from sae.subject import Subject, SubjectConfig
from services.metrics import Monitor
from services.worker_pool import PoolOptions, run_pool

STAGE = "harvest/tokens"


class HarvestConfig(Config):
    """Which activations to store, and who does the work."""

    hookpoints: list[str] = Field(default=["blocks.0.mlp.hook_post"], min_length=1, description="TransformerLens names, all harvested in one pass")
    tokens_per_sequence: PositiveInt | None = Field(default=None, description="tokens drawn from each sequence; null takes all that are not special")
    num_sequences: PositiveInt | None = Field(default=None, description="sequences to harvest, from the first on; null takes the training split")
    dtype: StoreDtype = Field(default="float16", description="precision of the stored activations")
    compression: Literal["none", "zstd"] = Field(default="none", description="of the activations within a shard; zstd halves the reading speed")
    sequences_per_shard: PositiveInt = Field(default=256, description="sequences of a shard, the unit of work and of repetition after a failure")
    sequences_per_forward: PositiveInt = Field(default=32, description="sequences that run through the model at once")
    seed: NonNegativeInt = Field(default=0, description="seed of the drawn tokens and of the order of rows within a shard")
    num_workers: PositiveInt = Field(default=2, description="actors, each with its own copy of the model")
    pool: PoolOptions = Field(default_factory=PoolOptions, description="what each actor occupies, its attempts and timeouts")


@dataclass(frozen=True)
class SubjectFacts:
    """What a store's plan says about the subject model."""

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
class HarvestReport:
    """What became of one shard."""

    shard: int
    tokens: int
    rows: int
    written_bytes: int


class HarvestWorker:
    """Runs the subject model over the sequences of one shard after another.

    Raises:
        PlanError: the subject model is no longer the plan's.
    """

    def __init__(self, plan: StorePlan, corpus_url: str, store_url: str, subject: SubjectConfig) -> None:
        self.plan, self.corpus, self.place = plan, TokenCorpus(Place(corpus_url)), Place(store_url)
        self.subject = Subject.load(subject, device())
        if self.subject.digest != plan.subject_digest:
            raise PlanError(f"{subject.model!r} changed while it was harvested (or differs between machines): start again with one model")

    def run(self, shard: int) -> HarvestReport:
        """Harvest one shard; a second time, it leaves the same bytes."""
        tokens = self.corpus.sequences("train", *self.plan.shard_range(shard))
        activations = {name: torch.empty(*tokens.shape, d_in, dtype=TORCH_DTYPES[self.plan.dtype]) for name, d_in in self.plan.hookpoints.items()}
        for start in range(0, len(tokens), self.plan.sequences_per_forward):
            part = slice(start, start + self.plan.sequences_per_forward)
            batch = torch.from_numpy(tokens[part].astype("int64")).to(self.subject.device)
            for name, found in self.subject.activations(batch, list(activations)).items():
                if found.shape[:2] != batch.shape:
                    raise HookpointError(f"{name} gives {list(found.shape)} for tokens {list(batch.shape)}: only one vector a token can be harvested")
                activations[name][part] = to_stored_dtype(found, self.plan.dtype, name).cpu()
        written = write_shard(self.place, self.plan, shard, tokens, activations)
        return HarvestReport(shard, tokens.size, written.rows, written.written_bytes)


def harvest(config: HarvestConfig, corpus_url: str, store_url: str, subject: SubjectConfig, monitor: Monitor | None = None) -> StoreManifest:
    """Fill a store with the activations of a corpus' training split; needs an initialised Ray.

    The result depends on neither the number of workers nor on who was killed when: equal plans give equal bytes on machines of
    one kind. (A matrix product may round differently on other processors or with other numbers of threads. It also does with other
    `sequences_per_forward`, which is why the plan holds that number.)

    Args:
        config: which activations, and who does the work.
        corpus_url: a finished corpus.
        store_url: where the store goes; an unfinished one of the same plan is continued, a finished one returned.
        subject: the model.
        monitor: told of progress.

    Raises:
        UserError: no such model, corpus or hookpoint; a corpus of another tokenizer; a store of another plan.
        FailureError: a shard that failed too often.
    """
    corpus = TokenCorpus(Place(corpus_url))
    facts = describe_subject(subject.absolute(), config.hookpoints, config.pool)
    return fill_store(config, make_plan(config, corpus, subject, facts), corpus_url, store_url, subject, monitor)


def fill_store(
    config: HarvestConfig, plan: StorePlan, corpus_url: str, store_url: str, subject: SubjectConfig, monitor: Monitor | None = None
) -> StoreManifest:
    """`harvest` with a plan that is already made."""
    place = Place(store_url)
    start_store(place, plan)
    missing = [] if place.exists(MANIFEST_KEY) else missing_shards(place, plan)
    total = plan.num_sequences * plan.context_length
    done = total - plan.context_length * sum(last - first for first, last in map(plan.shard_range, missing))
    if monitor:
        monitor.progress(STAGE, done, total)
    arguments = (plan, absolute_url(corpus_url), absolute_url(store_url), subject.absolute())
    for _, report in run_pool(HarvestWorker, arguments, missing, config.num_workers, config.pool, monitor):
        done += report.tokens
        if monitor:
            monitor.add("monosem_harvest_tokens_total", report.tokens)
            monitor.add("monosem_harvest_rows_total", report.rows)
            monitor.add("monosem_store_bytes_total", report.written_bytes)
            monitor.add("monosem_shards_total", len(plan.hookpoints), outcome="committed")
            monitor.progress(STAGE, done, total)
    return finish_store(place, plan)


def describe_subject(subject: SubjectConfig, hookpoints: list[str], pool: PoolOptions) -> SubjectFacts:
    """What the subject model is, found out by a worker."""
    [(_, facts)] = run_pool(SubjectProbe, (subject,), [hookpoints], 1, pool)
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


def device() -> str:
    """Where a worker runs the model: its GPU if Ray gave it one."""
    return "cuda" if torch.cuda.is_available() else "cpu"
