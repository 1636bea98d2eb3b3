"""`summary.json` of an interpreted source, which says that the source is finished and covers its tables and plan by their digests."""

from typing import Any, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from sae.dictionary_record import Share
from sae.interpretation.records import EXPLANATIONS_KEY, Budget
from sae.interpretation.sources.sources import SourceKind
from sae.records import Record, check_name, get_record, put_record
from sae.run.layout import SUMMARY_KEY
from sae.storage import Place

Interval = tuple[float, float] | None


class PartFigures(Record):
    """Scores of a part of the features."""

    num_features: NonNegativeInt
    num_scored: NonNegativeInt
    explanation_score_median: float | None
    explanation_score_interval: Interval


class ScoreHistogram(Record):
    """Features by their score."""

    edges: list[float]
    counts: list[NonNegativeInt]


class HeldOutMedians(Record):
    """Medians over scored features of the figures on all held-out tokens; null where nothing was scored."""

    firing_precision: float | None
    firing_recall: float | None
    firing_f1: float | None
    variance_explained: float | None
    score_all_tokens: float | None
    spearman_all_tokens: float | None
    score_hard: float | None


class WordScore(Record):
    """One score of explanations in words."""

    median: float | None
    interval: Interval
    num_features: NonNegativeInt
    chance: float | None
    single_token: float | None
    multiple_tokens: float | None


class ExplainerSummary(Record):
    """Explanations by one explainer."""

    num_features: NonNegativeInt
    num_explained: NonNegativeInt
    not_explained: dict[str, NonNegativeInt]
    num_scored: NonNegativeInt
    not_scored: dict[str, NonNegativeInt]
    scores: dict[str, WordScore]


class WordsSummary(Record):
    """Explanations in words (`sae.interpretation.language_model.summary`)."""

    model: str
    prompts: dict[str, str]
    settings: dict[str, Any]
    seed: NonNegativeInt
    num_sampled: NonNegativeInt
    num_done: NonNegativeInt
    complete: bool
    requests: NonNegativeInt
    prompt_tokens: NonNegativeInt
    reply_tokens: NonNegativeInt
    cost: NonNegativeFloat
    num_items: NonNegativeInt
    num_unread: NonNegativeInt
    outcomes: dict[str, dict[str, NonNegativeInt]]
    explainers: dict[str, ExplainerSummary]


class SourceSummary(Record):
    """Figures of a source; `sae.interpretation.records` explains them."""

    source: str
    kind: SourceKind
    control: bool
    hookpoint: str
    num_features: PositiveInt
    num_examined: NonNegativeInt
    num_live: NonNegativeInt
    num_scored: NonNegativeInt
    not_scored: dict[str, NonNegativeInt]
    explanation_score_median: float | None
    explanation_score_interval: Interval
    draw_medians: list[float]
    pearson_median: float | None
    all_tokens_median: float | None
    held_out_medians: HeldOutMedians
    score_quantiles: dict[str, float] | None
    score_histogram: ScoreHistogram
    single_token: PartFigures
    multiple_tokens: PartFigures
    explanation_tokens: NonNegativeInt
    scoring_tokens: NonNegativeInt
    repeated_fraction: Share
    config: Budget
    seed: NonNegativeInt
    tables: dict[str, str] = Field(description="SHA-256 of plan and tables, by their files")
    language_model: WordsSummary | None = Field(
        None, exclude_if=lambda words: words is None, description="of explanations in words, once there are any"
    )

    @model_validator(mode="after")
    def _words_have_a_table(self) -> Self:
        if (EXPLANATIONS_KEY in self.tables) != (self.language_model is not None):
            raise ValueError(f"language_model and the digest of {EXPLANATIONS_KEY} must both be there, or neither")
        return self


def put_summary(place: Place, summary: dict[str, Any]) -> dict[str, Any]:
    """Write `summary.json` of a source; returns its fields.

    Raises:
        ConfigError: a field is missing, unknown or of a wrong type.
    """
    record = SourceSummary.parse(summary)
    put_record(place, SUMMARY_KEY, record)
    return record.model_dump(mode="json")


def read_summary(place: Place) -> SourceSummary:
    """Read `summary.json` of a source, proved. Its tables are proved where they are read.

    Raises:
        InputError: there is none, or a field is missing, unknown or of a wrong type.
        CorruptObjectError: it was changed after it was written, or is of another source.
    """
    summary = get_record(place, SUMMARY_KEY, SourceSummary)
    check_name(summary.source, place.url.rpartition("/")[2], place.path(SUMMARY_KEY))
    return summary
