"""Reading a run directory: whatever its stages have left so far, and its sum, `summary.json`."""

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sae.errors import InputError
from sae.storage import Place

Json = dict[str, Any]
NOT_DICTIONARIES = {"state"}
EVALUATED = (
    "loss_recovered_zero",
    "loss_recovered_zero_interval",
    "loss_recovered_mean",
    "loss_recovered_mean_interval",
    "cross_entropy",
    "l0",
    "fvu",
    "dead_fraction",
    "dead_window_vectors",
    "silent_fraction",
    "num_tokens",
)
EXPLAINED = ("explanation_score_median", "explanation_score_interval", "num_examined", "num_live", "num_scored")
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

    @property
    def figures(self) -> Json:
        """What was measured of it: on held-out text, and by its training how many features are dead."""
        trained = {key: value for key in ("dead_fraction", "dead_window_vectors") if (value := value_at(self.result, key)) is not None}
        return (self.evaluation or {}) | trained


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
        """What its members are called."""
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
    """Read a run directory.

    Raises:
        InputError: nothing that a report could show is there.
    """
    keys = set(run.list())
    config = _json(run, keys, "config.json")
    names = _dictionary_names(keys, config)
    dictionaries = [_read_dictionary(run, keys, name, color) for color, name in enumerate(names)]
    interpreted = [_read_source(run, name, names) for name in _names(keys, "interpretation/", "/summary.json")]
    order = {name: place for place, name in enumerate((*names, *LABELS))}
    sources = sorted(interpreted, key=lambda source: (source.control, order.get(source.name, len(order)), source.name))
    if not dictionaries and not sources:
        raise InputError(f"{run.url} holds no dictionary, evaluation or interpretation: check the path, or run `monosem run` first")
    return RunRecord(
        name=run.url.rsplit("/", 1)[-1],
        corpus=_json(run, keys, "corpus/manifest.json"),
        store=_store_manifest(run, keys, config),
        dictionaries=dictionaries,
        sources=sources,
        config=config,
        stages=_json(run, keys, "stages.json"),
        comparison=_json(run, keys, "interpretation/comparison.json"),
        concepts=_json(run, keys, "concepts/concepts.json"),
    )


def summarise(
    run: Place, wall_seconds: float | None = None, peak_rss_bytes: int | None = None, versions: Json | None = None, seeds: Json | None = None
) -> Json:
    """Sum a run directory up, as `summary.json` does; figures whose stage has not run are null.

    Args:
        run: the run directory.
        wall_seconds: how long the run took; by default the sum over the stages recorded in `stages.json`.
        peak_rss_bytes: the largest resident memory of all its processes together; by default that of the largest stage.
        versions: name of a package -> its version; by default the recorded ones.
        seeds: name of a stage -> its seed; by default the recorded ones.

    Raises:
        InputError: the run holds nothing to sum up.
    """
    record = gather(run)
    recorded = record.stages or {}
    costs = list(recorded.get("stages", {}).values())
    return {
        "dictionaries": [_summary_of(dictionary, record) for dictionary in record.dictionaries],
        "baselines": {source.name: _explained(source) for source in record.sources if source.control},
        "wall_seconds": wall_seconds if wall_seconds is not None or not costs else sum(cost["seconds"] for cost in costs),
        "peak_rss_bytes": peak_rss_bytes if peak_rss_bytes is not None or not costs else max(cost["peak_rss_bytes"] for cost in costs),
        "versions": versions or recorded.get("versions", {}),
        "seeds": seeds or recorded.get("seeds", {}),
    }


def value_at(values: Json | None, path: str) -> Any:
    """The value at a dotted path, or None where it leads nowhere."""
    value: Any = values
    for key in path.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value


def _summary_of(dictionary: TrainedDictionary, record: RunRecord) -> Json:
    config, report = dictionary.config or {}, dictionary.evaluation or {}
    source = next((source for source in record.sources if source.name == dictionary.name), None)
    return {
        "name": dictionary.name,
        "architecture": config.get("architecture", report.get("architecture")),
        "d_in": config.get("d_in", report.get("d_in")),
        "d_sae": value_at(config, "config.d_sae") or report.get("d_sae"),
        "vectors": value_at(dictionary.result, "vectors"),
        "training_seconds": value_at(dictionary.result, "wall_seconds"),
        **{key: dictionary.figures.get(key) for key in EVALUATED},
        **_explained(source),
    }


def _explained(source: ExplainedSource | None) -> Json:
    return {key: source.summary.get(key) if source else None for key in EXPLAINED}


def _dictionary_names(keys: set[str], config: Json | None) -> list[str]:
    """The dictionaries in the order of the configuration, then others by name."""
    trained = _names(keys, "dictionaries/", "/config.json") | _names(keys, "dictionaries/", "/training.jsonl")
    configured = [dictionary.get("name") for dictionary in value_at(config, "training.dictionaries") or []]
    found = (trained | _names(keys, "evaluation/", ".json")) - NOT_DICTIONARIES
    return sorted(found, key=lambda name: (configured.index(name) if name in configured else len(configured), name))


def _store_manifest(run: Place, keys: set[str], config: Json | None) -> Json | None:
    elsewhere = (config or {}).get("store")
    if not elsewhere:
        return _json(run, keys, "store/manifest.json")
    store = Place(elsewhere)
    manifest: Json | None = store.get_json("manifest.json") if store.exists("manifest.json") else None
    return manifest


def _names(keys: set[str], prefix: str, suffix: str) -> set[str]:
    found = {key[len(prefix) : -len(suffix)] for key in keys if key.startswith(prefix) and key.endswith(suffix)}
    return {name for name in found if "/" not in name}


def _json(run: Place, keys: set[str], key: str) -> Json | None:
    return run.get_json(key) if key in keys else None


def _json_lines(run: Place, keys: set[str], key: str) -> list[Json]:
    if key not in keys:
        return []
    try:
        return [json.loads(line) for line in run.get(key).decode().splitlines() if line.strip()]
    except ValueError as error:
        raise InputError(f"{run.path(key)} is not JSON lines ({error}): it was damaged; train the dictionary again or remove it") from None


def _read_dictionary(run: Place, keys: set[str], name: str, color: int) -> TrainedDictionary:
    return TrainedDictionary(
        name=name,
        color=color,
        config=_json(run, keys, f"dictionaries/{name}/config.json"),
        result=_json(run, keys, f"dictionaries/{name}/result.json"),
        log=_json_lines(run, keys, f"dictionaries/{name}/training.jsonl"),
        events=_json_lines(run, keys, f"dictionaries/{name}/events.jsonl"),
        evaluation=_json(run, keys, f"evaluation/{name}.json"),
        tables={table: _arrow(run, key) for table in TABLES if (key := f"evaluation/{name}.{table}.arrow") in keys},
    )


def _arrow(run: Place, key: str) -> pa.Table:
    try:
        return pa.ipc.open_file(run.open_buffer(key)).read_all()
    except pa.ArrowInvalid as error:
        raise InputError(f"{run.path(key)} is not an Arrow file ({error}): it was damaged; evaluate again or remove it") from None


def _read_source(run: Place, name: str, dictionaries: list[str]) -> ExplainedSource:
    place = run.child("interpretation", name)
    summary: Json = place.get_json("summary.json")
    control = bool(summary.get("control", name in LABELS))
    trained = f"{name.removeprefix(SHUFFLED)} on the shuffled model" if name.startswith(SHUFFLED) else name
    color = dictionaries.index(name) if name in dictionaries else NEURON_COLOR if name == "neurons" else CONTROL_COLOR
    columns = ["feature", "density", "score_spearman", "single_token"]
    table = pq.read_table(pa.BufferReader(place.open_buffer("features.parquet")), columns=columns)
    return ExplainedSource(
        name=name,
        color=color,
        label=LABELS.get(name, trained) if control else name,
        control=control,
        summary=summary,
        feature=table["feature"].to_numpy(),
        density=table["density"].to_numpy(),
        score=table["score_spearman"].to_numpy(),  # null becomes NaN
        single_token=np.array([bool(value) for value in table["single_token"].to_pylist()]),
    )
