"""Records of a run as a whole: `stages.json` (what each stage took), `summary.json` (its figures), and what the report needs of `config.json`."""

from typing import Any, Literal

from pydantic import ConfigDict, Field, NonNegativeFloat, NonNegativeInt

from sae.records import Record, as_record, get_record
from sae.run.layout import CONFIG_KEY, STAGES_KEY, SUMMARY_KEY
from sae.storage import Place

StageName = Literal["pretrain", "harvest", "train", "evaluate", "concepts", "interpret", "report"]
Interval = tuple[float, float] | None


class StageCost(Record):
    """Cost of all attempts at a stage."""

    seconds: NonNegativeFloat
    peak_rss_bytes: NonNegativeInt
    finished: bool


class Machine(Record):
    """Where the last stage ran."""

    processor: str
    cpus: NonNegativeFloat
    gpus: NonNegativeFloat
    nodes: NonNegativeInt


class RunStages(Record):
    """`stages.json`."""

    stages: dict[StageName, StageCost]
    versions: dict[str, str] = Field({}, description="of packages")
    seeds: dict[str, NonNegativeInt] = Field({}, description="of stages")
    machine: Machine | None = Field(None, description="null: no stage has ended")


class ExplainedFigures(Record):
    """Figures of an interpreted source in `summary.json`; null where it was not interpreted or not scored."""

    explanation_score_median: float | None
    explanation_score_interval: Interval
    num_examined: NonNegativeInt | None
    num_live: NonNegativeInt | None
    num_scored: NonNegativeInt | None


class DictionaryFigures(ExplainedFigures):
    """Figures of a dictionary in `summary.json`; null where a stage has not run or the figure is not defined."""

    name: str
    architecture: str | None
    d_in: NonNegativeInt | None
    d_sae: NonNegativeInt | None
    vectors: NonNegativeInt | None
    training_seconds: NonNegativeFloat | None
    loss_recovered_zero: float | None
    loss_recovered_zero_interval: Interval
    loss_recovered_mean: float | None
    loss_recovered_mean_interval: Interval
    cross_entropy: dict[str, float] | None
    l0: NonNegativeFloat | None
    fvu: NonNegativeFloat | None
    dead_fraction: NonNegativeFloat | None
    dead_window_vectors: NonNegativeInt | None
    silent_fraction: NonNegativeFloat | None
    num_tokens: NonNegativeInt | None


class RunSummary(Record):
    """`summary.json`."""

    dictionaries: list[DictionaryFigures]
    baselines: dict[str, ExplainedFigures]
    wall_seconds: NonNegativeFloat | None
    peak_rss_bytes: NonNegativeInt | None
    versions: dict[str, str]
    seeds: dict[str, NonNegativeInt]


class _Named(Record):
    model_config = ConfigDict(extra="ignore")
    name: str


class _Training(Record):
    model_config = ConfigDict(extra="ignore")
    dictionaries: list[_Named]


class ConfiguredRun(Record):
    """`config.json`, as far as other records are found by it."""

    model_config = ConfigDict(extra="ignore")
    store: str | None
    training: _Training


def read_stages(run: Place) -> RunStages | None:
    """Read `stages.json`, proved; None before a stage has ended.

    Raises:
        InputError: a field is missing, unknown or of a wrong type.
        CorruptObjectError: it was changed after it was written.
    """
    return get_record(run, STAGES_KEY, RunStages) if run.exists(STAGES_KEY) else None


def read_run_summary(run: Place) -> RunSummary:
    """Read `summary.json` of a run, proved.

    Raises:
        InputError: there is none, or a field is missing, unknown or of a wrong type.
        CorruptObjectError: it was changed after it was written.
    """
    return get_record(run, SUMMARY_KEY, RunSummary)


def read_configuration(run: Place) -> tuple[dict[str, Any], ConfiguredRun] | None:
    """Read `config.json` of a run, for people and for programs; None where there is none.

    Raises:
        InputError: it is not JSON, or lacks what other records are found by.
        CorruptObjectError: it was changed after it was written.
    """
    if not run.exists(CONFIG_KEY):
        return None
    content = run.get_sealed(CONFIG_KEY)
    return content, as_record(ConfiguredRun, content, run.path(CONFIG_KEY))
