"""Interpretation on a pool of workers: the model reads each text once for all sources, then every feature is explained and scored.

Two pools, one after the other, that meet in the scratch directories of the output: the first holds the model and writes every firing
by feature, the second holds the texts and takes ranges of features. What is fitted (PCA and the like) is fitted before, by workers
of their own. What a worker holds is bounded: one run of sequences with its code, or the texts (about 100 bytes per token) and the firings of one
range (8 bytes each, at most `FIRINGS_PER_TASK` unless one feature has more) and what finding their neighbours takes (`neighbours`).
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, PositiveInt
from scipy.sparse import csc_array

from sae.corpus.packing import TokenCorpus
from sae.devices import device
from sae.execution import Executor, InProcess, PoolOptions
from sae.interpretation.comparison import write_comparison
from sae.interpretation.examples.firings import Firings, firing_counts, write_firings
from sae.interpretation.examples.neighbours import StrongestPlaces, find_neighbours, similar_directions
from sae.interpretation.index import RangeIndexer, index_range, read_texts
from sae.interpretation.language_model.config import LanguageModelConfig
from sae.interpretation.patterns.ablation import ModelReader
from sae.interpretation.planning import SPLITS, InterpretationJob, all_sources, source_plan
from sae.interpretation.records import Budget
from sae.interpretation.sources.controls import FIT_KEY, FITTED, fit_control
from sae.interpretation.sources.directory import (
    FIRINGS,
    LOGITS_KEY,
    SIMILAR_KEY,
    SourcePlan,
    clear_scratch,
    feature_ranges,
    finish_source,
    finished_source,
    firings_key,
    has_part,
    start_source,
    write_part,
)
from sae.interpretation.sources.scratch import get_table, put_table, whole_tables
from sae.interpretation.sources.sources import SourceSpec, open_source
from sae.interpretation.text.passages import load_passages
from sae.interpretation.text.reading import read_codes, read_logits
from sae.interpretation.text.vocabulary import VOCABULARY_KEY, put_vocabulary
from sae.log import log
from sae.provenance import check_corpus, check_subject
from sae.run.layout import SUMMARY_KEY
from sae.storage import Place, absolute_url
from sae.store import Store
from sae.subject.model import Subject, SubjectConfig, load_tokenizer

SEQUENCES_PER_TASK = 128
FEATURES_PER_TASK = 256
FIRINGS_PER_TASK = 16 * 2**20
READ_STAGE, EXPLAIN_STAGE = "interpret/tokens", "explain/features"

ReadTask = tuple[Literal["logits", "explanation", "scoring"], int]
ExplainTask = tuple[str, int, int]


class InterpretationConfig(Budget):
    """Configuration of explanations and their scores."""

    num_workers: PositiveInt = Field(2, le=10_000, description="interpretation workers, at most")
    pool: PoolOptions = Field(PoolOptions(), description="what each worker occupies, its attempts and timeouts")
    language_model: LanguageModelConfig | None = Field(None, description="explanations in words, made after the others; null makes none")


def interpret(
    config: InterpretationConfig,
    subject: SubjectConfig,
    corpus_url: str,
    store_url: str,
    dictionary_urls: dict[str, str],
    output_url: str,
    executor: Executor | None = None,
) -> dict[str, dict[str, Any]]:
    """Explain and score the features of dictionaries, the neurons and the controls.

    Writes `<output>/<source>/` and the files that `sae.interpretation.records` describes. A source whose summary is there is not done again;
    an unfinished one is gone on with. The result does not depend on the number of workers.

    Args:
        config: how much, and by whom.
        subject: the subject model.
        corpus_url: its corpus: explanations are learned on the training split and scored on the held-out one.
        store_url: the store, for the mean activation of its hookpoint.
        dictionary_urls: dictionaries of one hookpoint, by name.
        output_url: where the sources' directories go.
        executor: reads and explains (None: this process); its monitor is told of progress and of the `monosem_interpretation_*` metrics.

    Returns:
        `summary.json` of every source by name.

    Raises:
        ConfigError: no dictionary, dictionaries of several hookpoints, a name that a control has, or a control run of another subject.
        HookpointError: the store does not have the dictionaries' hookpoint.
        PlanError: a source was interpreted with other inputs; or dictionaries, store, subject and corpus do not belong together.
        WidthError: a dictionary of another width than the hookpoint.
        WorkerError: a worker failed more often than it may.
    """
    executor = executor or InProcess()
    corpus, store = TokenCorpus(Place(corpus_url)), Store(Place(store_url))
    check_corpus(corpus, store)
    budget = Budget(**{name: getattr(config, name) for name in Budget.model_fields})
    hookpoint, specs, remarks = all_sources(budget, {name: absolute_url(url) for name, url in dictionary_urls.items()}, store, subject)
    for remark in remarks:
        log("dictionary_origin", remark=remark)
    plans = {spec.name: source_plan(spec, hookpoint, store, budget) for spec in specs}
    output = Place(output_url)
    for name, plan in plans.items():
        start_source(output.child(name), plan)
    unfinished = tuple(spec for spec in specs if not output.child(spec.name).exists(SUMMARY_KEY))
    _proved(output, {spec.name: plans[spec.name] for spec in specs if spec not in unfinished})
    urls = absolute_url(corpus_url), absolute_url(store_url)
    job = InterpretationJob(budget, subject.absolute(), *urls, hookpoint, absolute_url(output_url), unfinished)
    if unfinished or not output.exists(VOCABULARY_KEY):
        put_vocabulary(output, load_tokenizer(subject))
    if unfinished:
        _fit(executor, job, config)
        _explain(executor, job, config, plans, _read(executor, job, config, corpus))
    summaries = _proved(output, plans)
    for name, summary in summaries.items():
        if summary["explanation_score_median"] is not None:
            executor.monitor.set("monosem_interpretation_score", summary["explanation_score_median"], source=name)
        clear_scratch(output.child(name))  # whoever was interrupted after the summary left it
    write_comparison(output, {spec.name: not spec.is_control for spec in specs}, budget.seed)
    return summaries


def _proved(output: Place, plans: dict[str, SourcePlan]) -> dict[str, dict[str, Any]]:
    return {name: finished_source(output.child(name), plan) for name, plan in plans.items()}


class FittingWorker:
    """Fits controls on the store."""

    def __init__(self, job: InterpretationJob) -> None:
        self.job, self.store = job, Store(Place(job.store_url))

    def run(self, number: int) -> None:
        """Fit the control that is source `number`."""
        spec, controls = self.job.specs[number], self.job.budget.controls
        place = self.job.place(spec.name)
        fit_control(spec.kind, self.store, self.job.hookpoint, spec.num_features, controls.fit_vectors, self.job.budget.seed, place)


class ReadingWorker:
    """Runs the model over runs of sequences and writes the firings of every source.

    Raises:
        PlanError: the store was made with another subject model, or in another precision.
    """

    def __init__(self, job: InterpretationJob) -> None:
        where = device()
        store = Store(Place(job.store_url))
        self.job, self.corpus = job, TokenCorpus(Place(job.corpus_url))
        self.special_token_ids = store.plan.special_token_ids
        wanted = {spec.subject or job.subject: spec.subject_digest or store.plan.subject_digest for spec in job.specs}
        self.subjects = {config: Subject.load(config, where) for config in wanted}
        for config, digest in wanted.items():
            check_subject(self.subjects[config], digest, f"{job.store_url} was made", "interpret")
        mean = torch.tensor(store.statistics(job.hookpoint).mean)
        self.sources = {spec.name: open_source(spec, mean, job.budget.seed, job.place(spec.name), where) for spec in job.specs}

    def run(self, task: ReadTask) -> int:
        """Do one task; returns the tokens read."""
        what, number = task
        if what == "logits":
            spec = self.job.specs[number]
            written = spec.written_hookpoint(self.job.hookpoint)
            table = read_logits(self.subject_of(spec), written, self.sources[spec.name], self.job.examined(spec))
            place = self.job.place(spec.name)
            put_table(place, SIMILAR_KEY, similar_directions(self.sources[spec.name], self.job.examined(spec)))
            put_table(place, LOGITS_KEY, table)  # last: it says that both are there
            return 0
        first = number * SEQUENCES_PER_TASK
        ids = self.job.sequence_ids(self.corpus, what)[first : first + SEQUENCES_PER_TASK]
        passages = load_passages(self.corpus, SPLITS[what], ids, self.special_token_ids)
        codes: dict[str, list[csc_array]] = {}
        for config, subject in self.subjects.items():
            sources = {spec.name: self.sources[spec.name] for spec in self.job.specs if (spec.subject or self.job.subject) == config}
            found, positions = read_codes(subject, self.job.hookpoint, sources, passages)
            codes |= found
        for spec in self.job.specs:
            examined = self.job.examined(spec)
            blocks = codes.pop(spec.name)
            if len(examined) < spec.num_features:
                blocks = [block[:, examined] for block in blocks]
            write_firings(self.job.place(spec.name), firings_key(what, number), blocks, positions + first * passages.length)
        return passages.num_tokens

    def subject_of(self, spec: SourceSpec) -> Subject:
        """The model whose activations a source reads."""
        return self.subjects[spec.subject or self.job.subject]


class ExplainingWorker:
    """Explains and scores ranges of features; holds both texts."""

    def __init__(self, job: InterpretationJob, special_token_ids: list[int], token_texts: Sequence[str], chunks: dict[str, int]) -> None:
        self.job, self.token_texts, self.chunks = job, token_texts, chunks
        self.specs = {spec.name: spec for spec in job.specs}
        self._loaded: tuple[str, ModelReader] | None = None
        self._strongest: tuple[str, tuple[StrongestPlaces, StrongestPlaces]] | None = None
        self.texts = read_texts(TokenCorpus(Place(job.corpus_url)), job.budget, special_token_ids)
        self.figures = {
            "explanation_tokens": self.texts.explanation.passages.num_readable,
            "scoring_tokens": self.texts.scoring.passages.num_readable,
            "repeated_fraction": self.texts.repeated_fraction,
        }

    def run(self, task: ExplainTask) -> dict[str, Any]:
        """Explain and score the examined features `[first, last + 1)` of a source; returns figures of the texts."""
        source, low, high = task
        place = self.job.place(source)
        if has_part(place, low):
            return self.figures
        keys = {used_for: [firings_key(used_for, chunk) for chunk in range(count)] for used_for, count in self.chunks.items()}
        firings = {used_for: Firings(place, names, low, high) for used_for, names in keys.items()}
        passages = self.texts.explanation.passages
        neighbours = find_neighbours(
            self._places(source, keys), (low, high), get_table(place, SIMILAR_KEY), passages.readable, SEQUENCES_PER_TASK * passages.length
        )
        indexer = RangeIndexer(self.texts, self.job.budget, source, self.token_texts)
        logits = get_table(place, LOGITS_KEY).slice(low, high - low)
        features = self.job.examined(self.specs[source])
        write_part(place, low, *index_range(indexer, features, firings["explanation"], firings["scoring"], neighbours, logits, self._reader(source)))
        return self.figures

    def _places(self, source: str, keys: dict[str, list[str]]) -> tuple[StrongestPlaces, StrongestPlaces]:
        """Those of a source, kept while ranges of it follow one another."""
        if self._strongest is None or self._strongest[0] != source:
            place = self.job.place(source)
            self._strongest = source, (StrongestPlaces(place, keys["explanation"]), StrongestPlaces(place, keys["scoring"]))
        return self._strongest[1]

    def _reader(self, source: str) -> ModelReader | None:
        """The model behind a source, where explanations are learned from it; loaded with the first range of the source."""
        if self.job.budget.graph.learner != "ablation":
            return None
        if self._loaded is None or self._loaded[0] != source:
            where, store, spec = device(), Store(Place(self.job.store_url)), self.specs[source]
            mean = torch.tensor(store.statistics(self.job.hookpoint).mean)
            features = open_source(spec, mean, self.job.budget.seed, self.job.place(source), where)
            subject = Subject.load(spec.subject or self.job.subject, where)
            self._loaded = source, ModelReader(subject, self.job.hookpoint, features, int(self.texts.explanation.passages.tokens[0, 0]))
        return self._loaded[1]


def _fit(executor: Executor, job: InterpretationJob, config: InterpretationConfig) -> None:
    """Fit the controls that need it and were not fitted before."""
    tasks = [number for number, spec in enumerate(job.specs) if spec.kind in FITTED and not job.place(spec.name).exists(FIT_KEY)]
    for _ in executor.run(FittingWorker, (job,), tasks, config.num_workers, config.pool):
        pass


def _read(executor: Executor, job: InterpretationJob, config: InterpretationConfig, corpus: TokenCorpus) -> dict[str, int]:
    """Have the model read both texts; returns the number of runs of sequences in each."""
    sequences = {used_for: len(job.sequence_ids(corpus, used_for)) for used_for in SPLITS}
    chunks = {used_for: -(-count // SEQUENCES_PER_TASK) for used_for, count in sequences.items()}
    tasks: list[ReadTask] = [("logits", number) for number, spec in enumerate(job.specs) if not job.place(spec.name).exists(LOGITS_KEY)]
    there = {spec.name: whole_tables(job.place(spec.name), FIRINGS) for spec in job.specs}
    for used_for in ("explanation", "scoring"):
        keys = {chunk: firings_key(used_for, chunk) for chunk in range(chunks[used_for])}
        tasks += [(used_for, chunk) for chunk, key in keys.items() if any(key not in found for found in there.values())]
    length = corpus.manifest.config.context_length
    missing = sum(min(SEQUENCES_PER_TASK, sequences[what] - number * SEQUENCES_PER_TASK) for what, number in tasks if what in sequences)
    total = sum(sequences.values()) * length
    done = total - missing * length
    for _, tokens in executor.run(ReadingWorker, (job,), tasks, config.num_workers, config.pool):
        done += tokens
        executor.monitor.progress(READ_STAGE, done, total)
    return chunks


def _explain(executor: Executor, job: InterpretationJob, config: InterpretationConfig, plans: dict[str, SourcePlan], chunks: dict[str, int]) -> None:
    """Have every feature explained and scored, and finish each source as soon as its last range is done."""
    ranges = {spec.name: _ranges(job.place(spec.name), chunks) for spec in job.specs}
    tasks: list[ExplainTask] = [(name, low, high) for name, cuts in ranges.items() for low, high in cuts]
    total, done, left = sum(high - low for _, low, high in tasks), 0, {name: len(cuts) for name, cuts in ranges.items()}
    special, texts = Store(Place(job.store_url)).plan.special_token_ids, load_tokenizer(job.subject).token_texts
    specs = {spec.name: spec for spec in job.specs}
    for (name, low, high), text in executor.run(ExplainingWorker, (job, special, texts, chunks), tasks, config.num_workers, config.pool):
        done, left[name] = done + high - low, left[name] - 1
        executor.monitor.add("monosem_interpretation_features_total", high - low, source=name)
        executor.monitor.progress(EXPLAIN_STAGE, done, total)
        if not left[name]:
            finish_source(job.place(name), specs[name], plans[name], [low for low, _ in ranges[name]], text)


def _ranges(place: Place, chunks: dict[str, int]) -> list[tuple[int, int]]:
    counts = sum(firing_counts(place, [firings_key(used_for, chunk) for chunk in range(count)]) for used_for, count in chunks.items())
    return feature_ranges(np.asarray(counts), FEATURES_PER_TASK, FIRINGS_PER_TASK)
