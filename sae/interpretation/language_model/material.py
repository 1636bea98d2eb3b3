"""Material about a feature for a language model: its examples, apart for explaining and for scoring, and its logits."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sae.errors import FailureError, InputError
from sae.interpretation.records import HARD, KINDS, NUM_INTERVALS
from sae.interpretation.sampling import draw_seed, priorities
from sae.interpretation.sources.directory import examples_table, features_table
from sae.interpretation.summary_record import read_summary
from sae.run.layout import SUMMARY_KEY
from sae.storage import Place
from sae.subject.tokens_shown import shown_line

_FEATURES = [
    *("feature", "density", "num_firing", "max_activation", "activation_histogram", "not_scored_reason", "single_token", "top_logits"),
    "further_logits",
]
_EXAMPLES = ["feature", "kind", "interval", "used_for", "split", "sequence_id", "position", "peak", "tokens", "activations"]


@dataclass(frozen=True)
class Vocabulary:
    """The subject's tokens: what each shows as, and which are special."""

    texts: Sequence[str]
    special: Collection[int]

    def text(self, token: int) -> str:
        """Text of a token as it is shown."""
        return self.texts[token] if token < len(self.texts) else ""


@dataclass(frozen=True)
class Example:
    """One example.

    Attributes:
        id: split, sequence, position of its first token, and index of the token it was chosen for.
        kind: as in `examples.parquet`.
        interval: of the activation it was chosen for, -1 where that is 0.
        tokens: what its tokens show as, in a line.
        activations: at each.
        readable: which tokens count; features are not read at special ones.
    """

    id: tuple[str, int, int, int]
    kind: str
    interval: int
    tokens: list[str]
    activations: np.ndarray
    readable: np.ndarray

    @property
    def strongest(self) -> float:
        """The largest activation in it."""
        return float(self.activations.max(initial=0.0))

    @property
    def hard(self) -> bool:
        """Say whether it was chosen because features like this one fire in it."""
        return self.kind == KINDS[HARD]


@dataclass(frozen=True)
class FeatureMaterial:
    """All that may be asked about one feature.

    Attributes:
        maximum: its largest activation on the explanation text.
        density: share of that text's tokens on which it fires.
        interval_probabilities: how its firings fall into the intervals of activation, summing to 1.
        not_scored_reason: why no explanation of it can be scored, None where one can.
        shown: examples of the explanation text.
        scored: examples of the scoring text.
        raised: the tokens whose logits it raises most, ranks 1 to 10.
        further: ids at ranks 11 to 60; None where the index does not hold them.
    """

    source: str
    feature: int
    maximum: float
    density: float
    interval_probabilities: np.ndarray
    not_scored_reason: str | None
    single_token: bool
    shown: list[Example]
    scored: list[Example]
    raised: list[str]
    further: list[int] | None


class SourceMaterial:
    """The index of one source, read for a sample of its features.

    Memory: the examples of the sampled features, about 20 kB a feature.

    Raises:
        InputError: the source has no finished index.
    """

    def __init__(self, place: Place, source: str, max_features: int, seed: int, vocabulary: Vocabulary) -> None:
        self.source, self.vocabulary = source, vocabulary
        tables = _tables(place)
        table = features_table(place, tables).select(_FEATURES)
        alive = table.filter(pc.greater(table.column("num_firing"), 0))
        self.num_examined, self.num_alive = len(table), len(alive)
        self.features = sampled_features(alive.column("feature").to_numpy(), max_features, draw_seed(seed, "language_model", source))
        self._rows = {row["feature"]: row for row in alive.filter(pc.is_in(alive.column("feature"), _values(self.features))).to_pylist()}
        self._examples = examples_table(place, tables, self.features).select(_EXAMPLES)
        self._order = self._examples.column("feature").to_numpy()

    def of(self, feature: int) -> FeatureMaterial:
        """The material of one sampled feature.

        Raises:
            FailureError: an example serves explaining and scoring.
        """
        row = self._rows[feature]
        low, high = np.searchsorted(self._order, [feature, feature + 1])
        rows = self._examples.slice(low, high - low).to_pylist()
        shown, scored = ([self._example(each) for each in rows if each["used_for"] == use] for use in ("explanation", "scoring"))
        check_apart(shown, scored, f"feature {feature} of {self.source}")
        counts = np.array(row["activation_histogram"]["counts"], np.float64)
        return FeatureMaterial(
            source=self.source,
            feature=feature,
            maximum=row["max_activation"],
            density=row["density"],
            interval_probabilities=counts / max(1.0, counts.sum()) if len(counts) == NUM_INTERVALS else np.zeros(NUM_INTERVALS),
            not_scored_reason=row["not_scored_reason"],
            single_token=bool(row["single_token"]),
            shown=shown,
            scored=scored,
            raised=[each["text"] for each in row["top_logits"]],
            further=row["further_logits"],
        )

    def _example(self, row: dict[str, object]) -> Example:
        tokens = np.asarray(row["tokens"], np.int64)
        return Example(
            id=(str(row["split"]), *(int(str(row[name])) for name in ("sequence_id", "position", "peak"))),  # type: ignore[arg-type]
            kind=str(row["kind"]),
            interval=int(str(row["interval"])),
            tokens=shown_line(self.vocabulary.texts, tokens.tolist()),
            activations=np.asarray(row["activations"], np.float64),
            readable=~np.isin(tokens, list(self.vocabulary.special)),
        )


def sampled_features(features: np.ndarray, wanted: int, seed: int) -> list[int]:
    """Up to `wanted` features in a seeded order: a larger sample begins with the smaller one, so that raising the number only adds work."""
    order = np.argsort(priorities(features.astype(np.int64), seed), kind="stable")
    chosen: list[int] = features[order[:wanted]].tolist()
    return chosen


def check_apart(shown: list[Example], scored: list[Example], whose: str) -> None:
    """Raise FailureError if an example, or the sequence it comes from, serves both explaining and scoring."""
    both = {example.id[:2] for example in shown} & {example.id[:2] for example in scored}
    if both:
        raise FailureError(
            f"{len(both)} sequences (the first: {json.dumps(min(both))}) serve explaining and scoring {whose}: its scores could not be trusted"
        )


def _values(features: list[int]) -> pa.Array:
    return pa.array(features, pa.uint32())


def _tables(place: Place) -> dict[str, str]:
    if not place.exists(SUMMARY_KEY):
        raise InputError(f"{place.path(SUMMARY_KEY)} does not exist: run `monosem interpret` without a language model first")
    return read_summary(place).tables
