"""Plan of an interpretation: its sources and settings, fixed before any work begins, small enough to send to every worker."""

from dataclasses import dataclass
from typing import get_args

import numpy as np
from pydantic import ConfigDict

from sae.checkpoint import load_dictionary
from sae.corpus.packing import TokenCorpus
from sae.corpus.splitting import Split
from sae.dictionary_record import DictionaryRecord, describe_dictionary
from sae.errors import ConfigError, PlanError
from sae.interpretation.records import Budget
from sae.interpretation.sources.controls import DEFAULT_K, FITTED, ControlKind, ControlsConfig
from sae.interpretation.sources.directory import SourcePlan
from sae.interpretation.sources.sources import SourceSpec, examined_features
from sae.interpretation.text.passages import passage_ids
from sae.provenance import DescribedDictionaries, check_dictionaries, check_dictionary, described_dictionaries
from sae.records import Record, as_record
from sae.run.layout import CONFIG_KEY
from sae.storage import Place
from sae.store import Store
from sae.subject.model import SubjectConfig
from sae.units import NEURONS

SPLITS: dict[str, Split] = {"explanation": "train", "scoring": "held_out"}
SHUFFLED = "shuffled_"


class TrainedName(Record):
    """A dictionary of a run's configuration, by its name."""

    model_config = ConfigDict(extra="ignore")
    name: str


class TrainedNames(Record):
    """The dictionaries of a run's configuration."""

    model_config = ConfigDict(extra="ignore")
    dictionaries: list[TrainedName]


class RunConfiguration(Record):
    """`config.json` of a run, as far as a control run is read by it."""

    model_config = ConfigDict(extra="ignore")
    subject: SubjectConfig
    store: str | None
    training: TrainedNames


@dataclass(frozen=True)
class InterpretationJob:
    """Everything a worker needs to know."""

    budget: Budget
    subject: SubjectConfig
    corpus_url: str
    store_url: str
    hookpoint: str
    output_url: str
    specs: tuple[SourceSpec, ...]

    def place(self, source: str) -> Place:
        """The directory of a source."""
        return Place(self.output_url).child(source)

    def examined(self, spec: SourceSpec) -> np.ndarray:
        """The features of a source that are looked at."""
        return examined_features(spec, self.budget.max_features, self.budget.seed)

    def sequence_ids(self, corpus: TokenCorpus, used_for: str) -> np.ndarray:
        """The sequences of the text for `explanation` or `scoring`."""
        wanted = self.budget.explanation_sequences if used_for == "explanation" else self.budget.scoring_sequences
        return passage_ids(corpus.num_sequences(SPLITS[used_for]), wanted)


def all_sources(budget: Budget, urls: dict[str, str], store: Store, subject: SubjectConfig) -> tuple[str, list[SourceSpec], list[str]]:
    """The hookpoint of the dictionaries, what is interpreted (they, the neurons, the controls), and remarks on what cannot be compared.

    Raises:
        ConfigError: see `dictionary_sources` and `shuffled_sources`.
        InputError: a dictionary or control run is not there or does not say where it belongs.
        HookpointError, PlanError, WidthError: a dictionary does not belong to the store.
    """
    described, dictionaries = dictionary_sources(urls)
    remarks, hookpoint = check_dictionaries(described, store), described.hookpoint
    first = next(iter(described.records.values()))
    controls = control_sources(budget, store.plan.hookpoints[hookpoint], first)
    return hookpoint, [*dictionaries, *controls, *shuffled_sources(budget, hookpoint, store, subject)], remarks


def dictionary_sources(urls: dict[str, str]) -> tuple[DescribedDictionaries, list[SourceSpec]]:
    """The dictionaries, which share a hookpoint, and each as a source.

    Raises:
        ConfigError: no dictionary, dictionaries of several hookpoints, or a name that a control has.
        InputError: a dictionary that does not say where it belongs.
    """
    taken = [name for name in urls if name in (NEURONS, *get_args(ControlKind)) or name.startswith(SHUFFLED)]
    if taken:
        raise ConfigError(f"a dictionary is called {taken[0]!r}, as a control is: rename it")
    described = described_dictionaries(urls, "interpret")
    return described, [_dictionary_source(name, urls[name], record) for name, record in described.records.items()]


def control_sources(budget: Budget, d_in: int, dictionary: DictionaryRecord) -> list[SourceSpec]:
    """The neurons, and the controls that are asked for; a random dictionary is as wide and as sparse as `dictionary`."""
    specs, limit = [SourceSpec(name=NEURONS, kind="neurons", num_features=d_in)], budget.controls.num_features
    for kind in dict.fromkeys(budget.controls.kinds):
        if kind == "random_dictionary":
            d_sae, k = dictionary.config.d_sae, getattr(dictionary.config, "k", DEFAULT_K)
            specs.append(SourceSpec(name=kind, kind=kind, num_features=d_sae, max_examined=limit, k=min(k, d_sae)))
        else:
            specs.append(SourceSpec(name=kind, kind=kind, num_features=min(limit, d_in) if kind in FITTED else limit))
    return specs


def shuffled_sources(budget: Budget, hookpoint: str, store: Store, subject: SubjectConfig) -> list[SourceSpec]:
    """The dictionaries of the control run on the weight-shuffled model, if there is one.

    Raises:
        ConfigError: that run's subject is not this one, weight-shuffled; or it has no dictionary.
        InputError: there is no such run.
        PlanError: its store holds another text or hookpoint, or a dictionary is not of that store.
        HookpointError, WidthError: a dictionary is not of that store.
    """
    if budget.controls.shuffled_run is None:
        return []
    run = Place(budget.controls.shuffled_run)
    config = as_record(RunConfiguration, run.get_sealed(CONFIG_KEY), run.path(CONFIG_KEY), may_lack=True)
    shuffled = config.subject
    if shuffled.shuffle_seed is None or shuffled.absolute() != subject.absolute().model_copy(update={"shuffle_seed": shuffled.shuffle_seed}):
        raise ConfigError(f"{run.url} was made with {shuffled}, expected this run's subject with a shuffle_seed: make it anew, or leave it out")
    other = Store(Place(config.store) if config.store else run.child("store"))
    if other.plan.corpus_digest != store.plan.corpus_digest or hookpoint not in other.plan.hookpoints:
        raise PlanError(f"{run.url} was harvested from another text or hookpoint than {store.place.url}: give it the same corpus and hookpoints")
    specs = []
    for dictionary in config.training.dictionaries:
        place = run.child("dictionaries", dictionary.name)
        name, record = SHUFFLED + dictionary.name, describe_dictionary(place)
        check_dictionary(name, place.url, record, other.plan, other.manifest.digest, other.place.url)
        if record.metadata.hookpoint != hookpoint:
            raise PlanError(f"{place.url} encodes {record.metadata.hookpoint!r}, and the dictionaries here {hookpoint!r}: train one of it there")
        spec = _dictionary_source(name, place.url, record)
        more = {"kind": "shuffled_model", "max_examined": budget.controls.num_features, "subject": shuffled.absolute()}
        specs.append(spec.model_copy(update=more | {"subject_digest": other.plan.subject_digest}))
    if not specs:
        raise ConfigError(f"{run.url} has no dictionary: train one in it first")
    return specs


def source_plan(spec: SourceSpec, hookpoint: str, store: Store, budget: Budget) -> SourcePlan:
    """All that determines the records of a source; which other controls there are does not, so that one may be added later."""
    controls = budget.controls.model_copy(update={"kinds": [], "shuffled_run": None}) if spec.is_control else ControlsConfig()
    return SourcePlan(
        name=spec.name,
        kind=spec.kind,
        source_digest=spec.digest,
        hookpoint=hookpoint,
        subject_digest=spec.subject_digest or store.plan.subject_digest,
        corpus_digest=store.plan.corpus_digest,
        store_digest=store.manifest.digest,
        budget=budget.model_copy(update={"controls": controls}),
    )


def _dictionary_source(name: str, url: str, record: DictionaryRecord) -> SourceSpec:
    load_dictionary(url)  # its weights are proved before any work begins
    target = record.metadata.target_hookpoint if record.is_transcoder else None
    return SourceSpec(name=name, kind="dictionary", url=url, digest=record.digest, num_features=record.config.d_sae, target_hookpoint=target)
