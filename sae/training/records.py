"""Records of training: rows of `training.jsonl` and `events.jsonl`, and `result.json`, which covers them and the dictionary."""

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from sae.dictionary_record import CONFIG_KEY, Share, describe_dictionary
from sae.errors import CorruptObjectError
from sae.records import Record, as_record, check_objects, get_record
from sae.storage import Place, parse_json_lines

LOG_KEY = "training.jsonl"
EVENTS_KEY = "events.jsonl"
RESULT_KEY = "result.json"
WEIGHTS_KEY = "weights.safetensors"


class DensityRow(Record):
    """Features by the logarithm of their density (`sae.training.log.density_histogram`)."""

    log10_first: float
    log10_step: float = Field(gt=0)
    counts: list[NonNegativeInt]
    silent: NonNegativeInt


class LogRow(Record):
    """One row of `training.jsonl`: means over the steps since the row before."""

    step: PositiveInt
    vectors: PositiveInt
    losses: dict[str, float]
    fvu: NonNegativeFloat | None
    l0: NonNegativeFloat
    density_quantiles: dict[str, Share]
    density_histogram: DensityRow
    step_seconds: NonNegativeFloat
    read_seconds: NonNegativeFloat
    sync_seconds: NonNegativeFloat
    window_vectors: PositiveInt
    dead_fraction: Share
    learning_rate: NonNegativeFloat
    seconds: NonNegativeFloat


class Resampled(Record):
    """An event: dead features were set anew."""

    event: Literal["resampled"]
    step: NonNegativeInt
    vectors: NonNegativeInt
    dead: NonNegativeInt
    resampled: NonNegativeInt


class AfterResampling(Record):
    """An event: how many of the features that were set anew have fired since."""

    event: Literal["after_resampling"]
    step: NonNegativeInt
    vectors: NonNegativeInt
    resampled_at_step: NonNegativeInt
    resampled: NonNegativeInt
    alive: NonNegativeInt


Event = Annotated[Resampled | AfterResampling, Field(discriminator="event")]


class OneEvent(Record):
    """A row of `events.jsonl`, for its check."""

    row: Event


class PilotPoint(Record):
    """A pilot run of a search for an L0."""

    coefficient: float
    l0: NonNegativeFloat


class FoundCoefficient(Record):
    """Record of the search for a sparsity coefficient."""

    coefficient: float
    l0: NonNegativeFloat
    wanted: NonNegativeFloat
    rounds: list[list[PilotPoint]]


class Search(FoundCoefficient):
    """`search.json`: a finished search."""

    request: dict[str, Any] = Field(description="the plan with the coefficient that the search started from")
    pilot_steps: PositiveInt


class TrainingResult(Record):
    """`result.json`: where a dictionary comes from and how its training ended; with it a dictionary is finished."""

    name: str
    hookpoint: str
    target_hookpoint: str | None = Field(None, description="what a transcoder reconstructs; null: no transcoder")
    subject: str
    subject_digest: str
    store_digest: str
    context_length: PositiveInt
    dtype: str
    architecture: str
    d_in: PositiveInt
    d_sae: PositiveInt
    steps: PositiveInt
    vectors: PositiveInt
    dead_fraction: Share
    dead_window_vectors: PositiveInt
    final: LogRow
    wall_seconds: NonNegativeFloat
    read_seconds: NonNegativeFloat
    seed: NonNegativeInt
    versions: dict[str, str]
    target_l0: FoundCoefficient | None = Field(None, description="how its coefficient was found; null: it was given")
    dictionary_digest: str = Field(description="of `config.json`, which covers the weights")
    logs: dict[str, str] = Field(description="SHA-256 of `training.jsonl` and `events.jsonl`")


def read_result(place: Place) -> TrainingResult:
    """Read `result.json` and prove what lies with it: the logs, `config.json`, the size of the weights (`load_dictionary` proves the rest).

    Raises:
        InputError: there is none, or a field is missing, unknown or of a wrong type.
        CorruptObjectError: it, a log or the dictionary was changed or lost after it was written.
    """
    result, where = get_record(place, RESULT_KEY, TrainingResult), place.path(RESULT_KEY)
    check_objects(place, {key: result.logs.get(key, "none") for key in (LOG_KEY, EVENTS_KEY)}, where)
    record = describe_dictionary(place)
    if record.digest != result.dictionary_digest:
        raise CorruptObjectError(
            f"{place.path(CONFIG_KEY)} has the digest {record.digest[:12]}…, and {where} names {result.dictionary_digest[:12]!r}: they are of two "
            "trainings. Copy both again, or train the dictionary again"
        )
    sizes = {entry.key: entry.bytes for entry in place.entries()}
    if sizes.get(WEIGHTS_KEY) != record.weights.bytes:
        raise CorruptObjectError(
            f"{place.path(WEIGHTS_KEY)} has {sizes.get(WEIGHTS_KEY, 0):,} bytes, and {CONFIG_KEY} says {record.weights.bytes:,}. "
            "Copy the dictionary again, or train it again"
        )
    return result


def read_log(place: Place) -> list[dict[str, Any]]:
    """The rows of `training.jsonl`, checked.

    Raises:
        InputError: a line is not JSON, or a field is missing, unknown or of a wrong type.
    """
    lines = enumerate(parse_json_lines(place.get(LOG_KEY), place.path(LOG_KEY)), 1)
    return [as_record(LogRow, row, f"{place.path(LOG_KEY)}, row {number}").model_dump() for number, row in lines]


def read_events(place: Place) -> list[dict[str, Any]]:
    """The rows of `events.jsonl`, checked.

    Raises:
        InputError: a line is not JSON, or a field is missing, unknown or of a wrong type.
    """
    lines = enumerate(parse_json_lines(place.get(EVENTS_KEY), place.path(EVENTS_KEY)), 1)
    return [as_record(OneEvent, {"row": row}, f"{place.path(EVENTS_KEY)}, row {number}").row.model_dump() for number, row in lines]
