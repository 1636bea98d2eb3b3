"""Reading a run directory: whatever its stages have left so far, proved."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from sae.concepts.report import REPORT_KEY, read_concepts
from sae.corpus.packing import TokenCorpus
from sae.dictionary_record import CONFIG_KEY, DictionaryRecord, describe_dictionary
from sae.errors import CorruptObjectError, InputError
from sae.evaluation.report import read_report, read_table
from sae.interpretation.comparison import COMPARISON_KEY, ComparisonRecord, read_comparison
from sae.interpretation.sources.directory import features_table, read_source
from sae.provenance import check_dictionary
from sae.records import check_name
from sae.run.layout import SUMMARY_KEY
from sae.run.records import read_configuration, read_stages
from sae.storage import Place
from sae.store import StoreManifest, read_manifest
from sae.training.records import EVENTS_KEY, LOG_KEY, RESULT_KEY, read_events, read_log, read_result
from sae.units import shown_source

Json = dict[str, Any]
NOT_DICTIONARIES = {"state"}
TRAINED = ("dead_fraction", "dead_window_vectors")  # figures that training measures, on its last vectors
LABELS = {
    "neurons": "neurons",
    "random_directions": "random directions",
    "pca": "principal components",
    "ica": "independent components",
    "nmf": "NMF components",
    "random_dictionary": "random dictionary",
}
SHUFFLED = "shuffled_"  # before the name of a dictionary: the one trained on the weight-shuffled model
NEURON_COLOR, CONTROL_COLOR = 5, 6
TABLES = ("positions", "losses", "worst")


@dataclass(frozen=True)
class TrainedDictionary:
    """One dictionary of the run; what its directory does not hold is None or empty.

    Attributes:
        color: its series number, the same in every plot and table.
        config: `config.json` of the checkpoint.
        result: `result.json` of training.
        log: rows of `training.jsonl`.
        events: rows of `events.jsonl`.
        evaluation: the evaluation report.
        tables: those of `TABLES` that the evaluation left beside it.
    """

    name: str
    color: int
    config: Json | None
    result: Json | None
    log: list[Json]
    events: list[Json]
    evaluation: Json | None
    tables: dict[str, pa.Table] = field(default_factory=dict)


@dataclass(frozen=True)
class ExplainedSource:
    """One interpreted source: a dictionary, the neurons or a control.

    Attributes:
        color: of the dictionary of that name, else that of neurons or of controls.
        label: what people read: a dictionary's name, or what it stands beside dictionaries for.
        control: whether it is something else than a dictionary of the run.
        summary: `summary.json`.
        feature: index of each examined feature, as the columns below.
        density: fraction of tokens it fires on.
        score: explanation score, NaN where not scored.
        single_token: whether it fires on a single token; False where unknown.
    """

    name: str
    color: int
    label: str
    control: bool
    summary: Json
    feature: np.ndarray
    density: np.ndarray
    score: np.ndarray
    single_token: np.ndarray

    @property
    def plural(self) -> str:
        """Plural of its members, as people read it."""
        return self.label if self.name in ("neurons", "random_directions", "pca", "ica", "nmf") else "features"

    def live(self) -> np.ndarray:
        """Rows of the features that fire on the text."""
        return np.flatnonzero(self.density > 0)

    def scores(self, single_token: bool | None = None) -> np.ndarray:
        """The scores there are: of all, of single-token features, or of the others."""
        wanted = ~np.isnan(self.score)
        if single_token is not None:
            wanted &= self.single_token == single_token
        return self.score[wanted]


@dataclass(frozen=True)
class RunRecord:
    """Everything a report draws on.

    Attributes:
        name: the last part of the run's URL.
        corpus: the corpus' manifest.
        store: the store's manifest; its plan under `plan`.
        sources: interpreted sources: dictionaries, neurons, controls.
        comparison: `comparison.json` of the interpretation: which differences between sources are noise.
        concepts: `concepts/concepts.json`: labels found by features and by neurons.
        config: the run's resolved configuration.
        stages: what each stage took, versions and seeds.
    """

    name: str
    corpus: Json | None
    store: Json | None
    dictionaries: list[TrainedDictionary]
    sources: list[ExplainedSource]
    config: Json | None
    stages: Json | None
    comparison: Json | None = None
    concepts: Json | None = None


def gather(run: Place) -> RunRecord:
    """Read a run directory. Everything is proved, and compared with what it must belong to.

    Raises:
        InputError: nothing that a report could show is there; or a field is missing, unknown or of a wrong type.
        CorruptObjectError: an object was changed after it was written, or two objects are of different runs.
        HookpointError, PlanError, WidthError: a dictionary does not belong to the store.
    """
    keys = set(run.list())
    config = read_configuration(run)
    names = _dictionary_names(keys, [each.name for each in config[1].training.dictionaries] if config else [])
    manifest = _store_manifest(run, config[1].store if config else None)
    dictionaries = [_read_dictionary(run, keys, name, color, manifest) for color, name in enumerate(names)]
    interpreted = [_read_source(run, name, dictionaries) for name in _names(keys, "interpretation/", f"/{SUMMARY_KEY}")]
    order = {name: place for place, name in enumerate((*names, *LABELS))}
    sources = sorted(interpreted, key=lambda source: (source.control, order.get(source.name, len(order)), source.name))
    if not dictionaries and not sources:
        raise InputError(f"{run.url} holds no dictionary, evaluation or interpretation: check the path, or run `monosem run` first")
    stages, concepts = read_stages(run), run.child("concepts")
    return RunRecord(
        name=run.url.rsplit("/", 1)[-1],
        corpus=TokenCorpus(run.child("corpus")).manifest.model_dump(mode="json") if "corpus/manifest.json" in keys else None,
        store=manifest[0].model_dump(mode="json", exclude={"shards"}) if manifest else None,
        dictionaries=dictionaries,
        sources=sources,
        config=config[0] if config else None,
        stages=stages.model_dump(mode="json") if stages else None,
        comparison=_read_comparison(run, sources) if f"interpretation/{COMPARISON_KEY}" in keys else None,
        concepts=read_concepts(concepts).model_dump(mode="json") if f"concepts/{REPORT_KEY}" in keys else None,
    )


def value_at(values: Json | None, path: str) -> Any:
    """The value at a dotted path; None where nothing was measured (`values` is None or empty), or where a value on the path is null.

    Raises:
        InputError: the path leads nowhere: a figure was renamed.
    """
    value: Any = values or None
    for key in path.split("."):
        if value is None:
            return None
        if not isinstance(value, dict) or key not in value:
            raise InputError(f"a record of the run has no figure {path!r}. Run the stage that writes it again with this version")
        value = value[key]
    return value


def figure_of(dictionary: TrainedDictionary, path: str) -> Any:
    """A figure of a dictionary: measured on held-out text, or by its training; None where that has not run or it is not defined.

    Raises:
        InputError: as `value_at`.
    """
    return value_at(dictionary.result if path in TRAINED else dictionary.evaluation, path)


def _dictionary_names(keys: set[str], configured: list[str]) -> list[str]:
    """The dictionaries in the order of the configuration, then others by name."""
    trained = _names(keys, "dictionaries/", f"/{CONFIG_KEY}") | _names(keys, "dictionaries/", f"/{LOG_KEY}")
    found = (trained | _names(keys, "evaluation/", ".json")) - NOT_DICTIONARIES
    return sorted(found, key=lambda name: (configured.index(name) if name in configured else len(configured), name))


def _store_manifest(run: Place, elsewhere: str | None) -> tuple[StoreManifest, str] | None:
    store = Place(elsewhere) if elsewhere else run.child("store")
    return (read_manifest(store), store.url) if store.exists("manifest.json") else None


def _names(keys: set[str], prefix: str, suffix: str) -> set[str]:
    found = {key[len(prefix) : -len(suffix)] for key in keys if key.startswith(prefix) and key.endswith(suffix)}
    return {name for name in found if "/" not in name}


def _read_dictionary(run: Place, keys: set[str], name: str, color: int, manifest: tuple[StoreManifest, str] | None) -> TrainedDictionary:
    place, evaluation = run.child("dictionaries", name), run.child("evaluation")
    there = {key for key in (CONFIG_KEY, RESULT_KEY, LOG_KEY, EVENTS_KEY) if f"dictionaries/{name}/{key}" in keys}
    record = describe_dictionary(place) if CONFIG_KEY in there else None
    if record and manifest:
        check_dictionary(name, place.url, record, manifest[0].plan, manifest[0].digest, manifest[1])
    result = read_result(place) if RESULT_KEY in there else None
    if result:
        check_name(result.name, name, place.path(RESULT_KEY))
    report = read_report(evaluation, name) if f"evaluation/{name}.json" in keys else None
    if report:
        _check_measured(name, report.inputs.dictionary_digest, record, evaluation.path(f"{name}.json"))
    return TrainedDictionary(
        name=name,
        color=color,
        config=record.model_dump(mode="json") if record else None,
        result=result.model_dump(mode="json") if result else None,
        log=read_log(place) if LOG_KEY in there else [],
        events=read_events(place) if EVENTS_KEY in there else [],
        evaluation=report.model_dump(mode="json") if report else None,
        tables={table: read_table(evaluation, report, table) for table in TABLES} if report else {},
    )


def _check_measured(name: str, digest: str, record: DictionaryRecord | None, where: str) -> None:
    """Refuse figures of another dictionary than the one that lies in the run."""
    if record and digest != record.digest:
        raise CorruptObjectError(
            f"{where} was made of a dictionary with the digest {digest[:12]!r}, and dictionaries/{name} has {record.digest[:12]!r}. "
            "Delete it and run its stage again, or copy the right dictionary there"
        )


def _read_source(run: Place, name: str, dictionaries: list[TrainedDictionary]) -> ExplainedSource:
    place, names = run.child("interpretation", name), [dictionary.name for dictionary in dictionaries]
    config = next((dictionary.config for dictionary in dictionaries if dictionary.name == name), None)
    summary = read_source(place, config["digest"] if config else None)
    table = features_table(place, summary.tables)
    trained = f"{name.removeprefix(SHUFFLED)} on the shuffled model" if name.startswith(SHUFFLED) else name
    return ExplainedSource(
        name=name,
        color=names.index(name) if name in names else NEURON_COLOR if name == "neurons" else CONTROL_COLOR,
        label=shown_source(LABELS.get(name, trained), summary.hookpoint) if summary.control else name,
        control=summary.control,
        summary={"language_model": None} | summary.model_dump(mode="json"),
        feature=table["feature"].to_numpy(),
        density=table["density"].to_numpy(),
        score=table["score_spearman"].to_numpy(),  # null becomes NaN
        single_token=np.array([bool(value) for value in table["single_token"].to_pylist()]),
    )


def _read_comparison(run: Place, sources: list[ExplainedSource]) -> Json:
    """`comparison.json`, if it is of the tables that lie there."""
    place = run.child("interpretation")
    comparison: ComparisonRecord = read_comparison(place)
    tables = {source.name: source.summary["tables"]["features.parquet"] for source in sources}
    different = sorted(name for name, digest in comparison.tables.items() if tables.get(name) != digest)
    if different:
        raise CorruptObjectError(
            f"{place.path(COMPARISON_KEY)} compares another {different[0]} than the one in {place.url}. Interpret again, or copy both again"
        )
    return comparison.model_dump(mode="json")
