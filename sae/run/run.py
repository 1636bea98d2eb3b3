"""A run as one object, read from its directory."""

import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from sae.architectures.base import Dictionary
from sae.checkpoint import load_dictionary
from sae.concepts.report import REPORT_KEY as CONCEPTS_KEY
from sae.concepts.report import ConceptReport, read_concepts
from sae.config import near_names, shown
from sae.corpus.packing import TokenCorpus
from sae.dictionary_record import CONFIG_KEY as DICTIONARY_KEY
from sae.dictionary_record import DictionaryRecord, describe_dictionary
from sae.errors import InputError
from sae.evaluation.report import EvaluationReport, read_report
from sae.interpretation.sources.directory import examples_table, features_table, read_source
from sae.interpretation.summary_record import SourceSummary
from sae.notebook import table
from sae.run.layout import CONCEPTS, CONFIG_KEY, CORPUS, DICTIONARIES, EVALUATION, INTERPRETATION, STAGES_KEY, STORE, SUMMARY_KEY
from sae.run.records import RunStages, read_configuration, read_stages
from sae.storage import Place
from sae.store import MANIFEST_KEY, Store
from sae.training.records import LOG_KEY, RESULT_KEY, TrainingResult, read_log, read_result


@dataclass(frozen=True)
class RunDictionary:
    """A dictionary of a run with what training and evaluation left of it.

    Attributes:
        run: the run directory.
        name: of the dictionary.
    """

    run: Place
    name: str

    @property
    def place(self) -> Place:
        """The directory of the dictionary."""
        return self.run.child(DICTIONARIES, self.name)

    @property
    def record(self) -> DictionaryRecord:
        """Architecture, widths, configuration and origin."""
        return describe_dictionary(self.place)

    @property
    def result(self) -> TrainingResult | None:
        """Figures of the training; None before it has finished."""
        return read_result(self.place) if self.place.exists(RESULT_KEY) else None

    @property
    def log(self) -> list[dict[str, Any]]:
        """Rows of the training log; empty where there is none."""
        return read_log(self.place) if self.place.exists(LOG_KEY) else []

    @property
    def evaluation(self) -> EvaluationReport:
        """Figures on held-out text: `fvu`, `l0`, `loss_recovered_zero` and others.

        Raises:
            InputError: it has not been evaluated.
        """
        place = self.run.child(EVALUATION)
        if not place.exists(f"{self.name}.json"):
            raise InputError(f"the dictionary {self.name!r} of {self.run.url} has not been evaluated. Run `monosem evaluate` first")
        return read_report(place, self.name)

    def load(self, device: str = "cpu") -> Dictionary:
        """Load the weights; see `sae.load_dictionary`."""
        return load_dictionary(self.place, device)

    def __repr__(self) -> str:
        record = self.record
        return f"RunDictionary({self.name!r}, {record.architecture}, {record.d_in} → {record.config.d_sae})"


class Run:
    """Content of a run directory, proved when it is read. What is missing is None or empty.

    Args:
        url: path or URL of the run.

    Raises:
        InputError: nothing there looks like a run.

    Example:
        >>> run = Run("runs/quickstart")  # doctest: +SKIP
        >>> run.dictionaries["topk"].evaluation.fvu  # doctest: +SKIP
        0.0996
        >>> run.features("topk").to_pandas().nlargest(5, "score_spearman")  # doctest: +SKIP
    """

    def __init__(self, url: str | os.PathLike[str] | Place) -> None:
        self.place = url if isinstance(url, Place) else Place(url)
        if not (self.place.exists(CONFIG_KEY) or self.place.exists(STAGES_KEY) or self.dictionaries):
            raise InputError(f"{self.place.url} is no run: it has no {CONFIG_KEY}, {STAGES_KEY} or {DICTIONARIES}. Check the path")

    @cached_property
    def config(self) -> dict[str, Any] | None:
        """The resolved configuration, as `monosem run` wrote it."""
        found = read_configuration(self.place)
        return found[0] if found else None

    @property
    def stages(self) -> RunStages | None:
        """Time, memory and outcome of each stage."""
        return read_stages(self.place)

    @property
    def corpus(self) -> TokenCorpus | None:
        """The packed text."""
        corpus = self.place.child(CORPUS)
        return TokenCorpus(corpus) if corpus.exists(MANIFEST_KEY) else None

    @property
    def store(self) -> Store | None:
        """The activation store: the run's own, or the one that its configuration names."""
        found = read_configuration(self.place)
        store = Place(found[1].store) if found and found[1].store else self.place.child(STORE)
        return Store(store) if store.exists(MANIFEST_KEY) else None

    @cached_property
    def dictionaries(self) -> dict[str, RunDictionary]:
        """The finished dictionaries by name, in the order of the configuration."""
        found = read_configuration(self.place)
        order = [each.name for each in found[1].training.dictionaries] if found else []
        keys = [key.split("/") for key in self.place.child(DICTIONARIES).list()]
        names = {parts[0] for parts in keys if parts[1:] == [DICTIONARY_KEY]}
        ordered = sorted(names, key=lambda name: (order.index(name) if name in order else len(order), name))
        return {name: RunDictionary(self.place, name) for name in ordered}

    @cached_property
    def sources(self) -> list[str]:
        """The interpreted sources by name: dictionaries, neurons and controls."""
        keys = [key.split("/") for key in self.place.child(INTERPRETATION).list()]
        return sorted(parts[0] for parts in keys if parts[1:] == [SUMMARY_KEY])

    @property
    def concepts(self) -> ConceptReport | None:
        """The labels that features and neurons detect."""
        place = self.place.child(CONCEPTS)
        return read_concepts(place) if place.exists(CONCEPTS_KEY) else None

    def interpretation(self, source: str) -> SourceSummary:
        """The figures of an interpreted source.

        Raises:
            InputError: there is no such source.
        """
        return read_source(self._source(source))

    def features(self, source: str) -> pa.Table:
        """The interpreted features of a source, one row each: density, explanation, scores, …; `.to_pandas()` makes a data frame of it.

        Raises:
            InputError: there is no such source.
        """
        return features_table(self._source(source), self.interpretation(source).tables)

    def examples(self, source: str, features: list[int] | None = None) -> pa.Table:
        """The examples of features, one row each: kind, tokens and activations.

        Args:
            source: as `sources` names it.
            features: of which; None: of all.

        Raises:
            InputError: there is no such source.
        """
        return examples_table(self._source(source), self.interpretation(source).tables, features)

    def _source(self, name: str) -> Place:
        if name not in self.sources:
            known = ", ".join(self.sources) or "none: run `monosem interpret` first"
            raise InputError(f"{self.place.url} has no interpreted source {shown(name)} (there are: {known}){near_names(name, self.sources)}")
        return self.place.child(INTERPRETATION, name)

    def _repr_html_(self) -> str:
        """The metrics of each dictionary and the explanation score of each source, for a notebook."""
        scores = {name: self.interpretation(name).explanation_score_median for name in self.sources}
        rows = []
        for name, dictionary in self.dictionaries.items():
            measured = dictionary.evaluation if self.place.exists(f"{EVALUATION}/{name}.json") else None
            figures = [getattr(measured, each, None) for each in ("l0", "fvu", "loss_recovered_zero")]
            rows.append([name, dictionary.record.architecture, dictionary.record.config.d_sae, *figures, scores.pop(name, None)])
        rows += [[name, None, None, None, None, None, score] for name, score in scores.items()]
        columns = ("source", "architecture", "d_sae", "L0", "FVU", "loss recovered (zero)", "explanation score")
        return table(self.place.url, columns, rows)

    def __repr__(self) -> str:
        stages = self.stages
        finished = ", ".join(name for name, cost in stages.stages.items() if cost.finished) if stages else ""
        return f"Run({self.place.url!r}, dictionaries: {', '.join(self.dictionaries) or 'none'}; finished: {finished or 'unknown'})"
