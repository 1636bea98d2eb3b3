"""Evaluation by a pool of workers: each measures ranges of held-out sequences, the driver adds up their sums.

Ranges are the same however many workers there are and are added in their order, so the figures do not depend on the workers.
"""

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Int
from pydantic import Field, PositiveInt
from torch import Tensor

from sae.architectures.base import Dictionary
from sae.checkpoint import load_dictionaries
from sae.concepts.labelled import ConceptsConfig
from sae.config import Config, Locations, Seed
from sae.corpus.packing import TokenCorpus
from sae.devices import device
from sae.errors import FailureError
from sae.evaluation.breakdown import worst_count
from sae.evaluation.passes import evaluate_sequences
from sae.evaluation.report import EvaluationInputs, EvaluationReport, EvaluationSums, Measured, build_report, finished_report, write_report
from sae.evaluation.sparsity import DensityHistogram
from sae.execution import Executor, InProcess, PoolOptions, Range, in_order, ranges, with_progress
from sae.log import log
from sae.monitor import Monitor
from sae.provenance import check_corpus, check_dictionaries, check_subject, check_tokenizer, described_dictionaries
from sae.storage import Place
from sae.store import Store
from sae.subject.model import Subject, SubjectConfig, load_tokenizer

DENSITY_QUANTILES = (0.1, 0.5, 0.9)


class EvaluationConfig(Config):
    """Configuration of the evaluation: amount of held-out text and number of workers."""

    num_sequences: PositiveInt | None = Field(None, le=10**10, description="held-out sequences, from the first on; null takes all there are")
    text: Locations | None = Field(
        None,
        min_length=1,
        max_length=10_000,
        description="further text to measure on, sources as in corpus.text: its held-out share, into OUTPUT/other_text; null: none",
    )
    sequences_per_forward: PositiveInt = Field(8, le=65_536, description="sequences in one pass of the model; two such batches of logits are held")
    sequences_per_task: PositiveInt = Field(64, le=10**6, description="sequences a worker measures before it reports")
    num_workers: PositiveInt = Field(2, le=10_000, description="evaluation workers, at most")
    pool: PoolOptions = Field(PoolOptions(), description="what each worker occupies, its attempts and timeouts")
    seed: Seed = Field(0, description="seed of the bootstrap over sequences")
    concepts: ConceptsConfig = Field(ConceptsConfig(), description="detection of labels by single features and neurons")


@dataclass(frozen=True)
class EvaluationJob:
    """Everything a worker needs to know; small enough to send to each."""

    subject: SubjectConfig
    corpus_url: str
    store_url: str
    hookpoint: str
    dictionary_urls: dict[str, str]
    sequences_per_forward: int
    target_hookpoints: dict[str, str] = field(default_factory=dict)
    """Of those dictionaries that are transcoders."""
    num_worst: int = sys.maxsize
    """Of the worst predictions, how many are kept at most: 1 % of all."""


def evaluate(
    config: EvaluationConfig,
    subject: SubjectConfig,
    corpus_url: str,
    store_url: str,
    dictionary_urls: dict[str, str],
    output_url: str,
    executor: Executor | None = None,
) -> dict[str, EvaluationReport]:
    """Measure dictionaries on held-out text, all of them in one pass. A transcoder is measured at its target.

    Writes `<output>/<name>.json` and the tables that `sae.evaluation.report` names. A dictionary whose report is there is not measured again.

    Args:
        config: how much, and by whom; where it names a text, the corpus is of that text and need not be the store's.
        subject: the subject model.
        corpus_url: its corpus, of which the held-out split is read.
        store_url: the store, for the mean activation of its hookpoint and of transcoders' targets.
        dictionary_urls: dictionaries of one hookpoint, by name.
        output_url: where the reports go.
        executor: does the measuring (None: this process); its monitor is told of progress (stage `evaluate/tokens`) and figures.

    Raises:
        ConfigError: no dictionary, or dictionaries of several hookpoints.
        HookpointError: a hookpoint that the store or the subject does not have.
        InputError: one of the inputs is not there.
        PlanError: a report is there that was measured with other inputs; or dictionaries, store, subject and corpus do not belong together.
        WidthError: a dictionary of another width than the hookpoint.
        CorruptObjectError: an input was changed after it was written.
        FailureError: a figure of a dictionary is not finite; the reports of the others are written.
        WorkerError: a worker failed more often than it may.
    """
    executor = executor or InProcess()
    corpus, store, output = TokenCorpus(Place(corpus_url)), Store(Place(store_url)), Place(output_url)
    num_sequences = min(corpus.num_sequences("held_out"), config.num_sequences or sys.maxsize)
    described = described_dictionaries(dictionary_urls, "evaluate")
    hookpoint, target_hookpoints = described.hookpoint, described.target_hookpoints
    if config.text is None:
        check_corpus(corpus, store)
    for remark in check_dictionaries(described, store):
        log("dictionary_origin", remark=remark)
    inputs = {name: _inputs(config, corpus, store, digest, num_sequences) for name, digest in described.digests.items()}
    reports = {name: finished_report(output, name, inputs[name]) for name in dictionary_urls}
    missing = {name: url for name, url in dictionary_urls.items() if reports[name] is None}
    if missing:
        num_worst = worst_count(num_sequences * (corpus.manifest.config.context_length - 1))
        job = EvaluationJob(subject, corpus_url, store_url, hookpoint, missing, config.sequences_per_forward, target_hookpoints, num_worst)
        dictionaries = load_dictionaries(missing, hookpoint, target_hookpoints, store.width)
        token_texts = load_tokenizer(subject).token_texts
        sums = _measure(executor, config, job, num_sequences, corpus.manifest.config.context_length)
        write = functools.partial(write_report, output, corpus=corpus, token_texts=token_texts, subject=subject)
        reports |= _written(job, dictionaries, sums, inputs, write)
    finished = {name: report for name, report in reports.items() if report is not None}
    _export(executor.monitor, finished)
    return finished


def _written(
    job: EvaluationJob,
    dictionaries: dict[str, Dictionary],
    sums: dict[str, EvaluationSums],
    inputs: dict[str, EvaluationInputs],
    write: Callable[[Measured], EvaluationReport],
) -> dict[str, EvaluationReport]:
    """Write the report of each dictionary. One that cannot be measured does not cost the others theirs."""
    reports, failures = {}, list[FailureError]()
    for name, dictionary in dictionaries.items():
        try:
            measured = build_report(name, dictionary, job.hookpoint, sums[name], inputs[name], job.target_hookpoints.get(name))
        except FailureError as error:
            failures.append(error)
            continue
        reports[name] = write(measured)
    if failures:
        raise failures[0]
    return reports


class EvaluationWorker:
    """Measures ranges of held-out sequences with one subject model and all dictionaries.

    Raises:
        InputError: the corpus does not fit the subject model.
        PlanError: the store was made with another subject model, or in another precision.
        WidthError: a dictionary does not fit the hookpoint.
    """

    def __init__(self, job: EvaluationJob) -> None:
        where = device()
        store = Store(Place(job.store_url))
        self.job = job
        self.corpus = TokenCorpus(Place(job.corpus_url))
        self.subject = Subject.load(job.subject, where)
        check_subject(self.subject, store.plan.subject_digest, f"{job.store_url} was made", "evaluate")
        check_tokenizer(self.subject, self.corpus)
        points = (job.hookpoint, *job.target_hookpoints.values())
        means = {point: torch.tensor(store.statistics(point).mean, dtype=torch.float32, device=where) for point in points}
        self.mean = means[job.hookpoint]
        self.targets = {name: (point, means[point]) for name, point in job.target_hookpoints.items()}
        self.dictionaries = load_dictionaries(job.dictionary_urls, job.hookpoint, job.target_hookpoints, self.subject.width, where)

    def run(self, task: Range) -> dict[str, EvaluationSums]:
        """The sums of held-out sequences `[start, stop)`, by dictionary."""
        start, stop = task
        sequences = self.corpus.sequences("held_out", start, stop).astype(np.int64)
        parts = []
        for first in range(0, len(sequences), self.job.sequences_per_forward):
            tokens = torch.from_numpy(sequences[first : first + self.job.sequences_per_forward]).to(self.subject.device)
            parts.append(self._sums(tokens, start + first))
        return merge_parts(parts)

    def _sums(self, tokens: Int[Tensor, "batch sequence"], first_sequence: int) -> dict[str, EvaluationSums]:
        found = evaluate_sequences(self.subject, self.job.hookpoint, self.dictionaries, self.mean, tokens, first_sequence, self.targets)
        for sums in found.values():
            sums.downstream.worst = sums.downstream.worst.limited(self.job.num_worst)
        return found


def merge_parts(parts: list[dict[str, EvaluationSums]]) -> dict[str, EvaluationSums]:
    """The sums over all parts, by dictionary."""
    total = parts[0]
    for part in parts[1:]:
        total = {name: sums.merge(part[name]) for name, sums in total.items()}
    return total


def _measure(executor: Executor, config: EvaluationConfig, job: EvaluationJob, num_sequences: int, context_length: int) -> dict[str, EvaluationSums]:
    tasks = ranges(num_sequences, config.sequences_per_task)
    results = executor.run(EvaluationWorker, (job,), tasks, config.num_workers, config.pool)

    def tokens(task: Range) -> int:
        return (task[1] - task[0]) * context_length

    told = with_progress(results, executor.monitor, "evaluate/tokens", num_sequences * context_length, tokens, "monosem_evaluation_tokens_total")
    return merge_parts(in_order(told, tasks))


def _inputs(config: EvaluationConfig, corpus: TokenCorpus, store: Store, dictionary_digest: str, num_sequences: int) -> EvaluationInputs:
    return EvaluationInputs(
        subject_digest=store.plan.subject_digest,
        corpus_digest=corpus.manifest.digest,
        store_digest=store.manifest.digest,
        dictionary_digest=dictionary_digest,
        num_sequences=num_sequences,
        seed=config.seed,
    )


def density_quantile(histogram: DensityHistogram, share: float) -> float:
    """The density that `share` of all features stay below, read off the upper edge of its bin; 0 where as many never fire."""
    wanted = share * (histogram.never + sum(histogram.counts))
    below = histogram.never
    if below >= wanted:
        return 0.0
    for count, edge in zip(histogram.counts, histogram.log10_edges[1:], strict=True):
        below += count
        if below >= wanted:
            return float(10**edge)
    return 1.0


def _export(monitor: Monitor, reports: dict[str, EvaluationReport]) -> None:
    for name, report in reports.items():
        for ablation, recovered in (("zero", report.loss_recovered_zero), ("mean", report.loss_recovered_mean)):
            if recovered is not None:
                monitor.set("monosem_evaluation_loss_recovered", recovered, dictionary=name, ablation=ablation)
        for share in DENSITY_QUANTILES:
            monitor.set("monosem_evaluation_density", density_quantile(report.density_histogram, share), dictionary=name, share=f"{share:g}")
