"""From the firings of a range of features to their rows in the index: examples, explanation, score.

Every feature's rows depend on the texts, the budget and the feature alone, so ranges may be done anywhere, in any order, twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from sae.corpus.packing import TokenCorpus
from sae.errors import FailureError, InputError
from sae.interpretation.examples.choice import Chosen, ExamplePool, anchor_tokens, choose, intervals_of, num_distinct
from sae.interpretation.examples.firings import FeatureFirings, Firings
from sae.interpretation.examples.neighbours import Neighbours
from sae.interpretation.examples.rows import ExampleRows, join_rows
from sae.interpretation.patterns.ablation import ModelReader, learn_by_ablation, peaks_of
from sae.interpretation.patterns.learning import learn
from sae.interpretation.patterns.token_graph import TokenGraph
from sae.interpretation.patterns.wording import explain, patterns_json
from sae.interpretation.records import FEATURES_SCHEMA, HARD, KINDS, NUM_INTERVALS, SCORING_DRAWS, Budget
from sae.interpretation.sampling import draw_seed
from sae.interpretation.scoring import held_out_figures, pearson, quantised, spearman
from sae.interpretation.text.contexts import Contexts
from sae.interpretation.text.passages import Passages, load_passages, passage_ids

SILENT = "never fires on the explanation text"
FIRING_OR_HARD = [KINDS.index("top"), KINDS.index("interval"), HARD]
Near = tuple[np.ndarray | None, np.ndarray | None]
TOO_FEW = "too few distinct firing examples in the scoring text"


@dataclass(frozen=True)
class Texts:
    """The two texts, indexed for choosing examples.

    Attributes:
        told: digests of all scoring-sized windows of the explanation text, ascending.
        repeated_fraction: share of the scoring text's places whose window stands word for word in the explanation text; they are
            never chosen for scoring.
    """

    explanation: ExamplePool
    scoring: ExamplePool
    contexts: Contexts
    told: np.ndarray
    repeated_fraction: float


def read_texts(corpus: TokenCorpus, budget: Budget, special_token_ids: Sequence[int]) -> Texts:
    """Read both texts and index them; about 100 bytes per token.

    Raises:
        InputError: sequences too short for an example.
    """
    length, needed = corpus.manifest.config.context_length, 1 + max(budget.explanation_examples.window, budget.scoring_examples.window)
    if length < needed:
        raise InputError(f"sequences of {length} tokens cannot hold examples of {needed - 1}: give a longer context_length")
    wanted = {"train": budget.explanation_sequences, "held_out": budget.scoring_sequences}
    explanation, scoring = (
        load_passages(corpus, split, passage_ids(corpus.num_sequences(split), wanted[split]), special_token_ids) for split in ("train", "held_out")
    )
    return index_texts(explanation, scoring, budget)


def index_texts(explanation: Passages, scoring: Passages, budget: Budget) -> Texts:
    """Index a text to learn explanations from and one to score them on."""
    mix = budget.scoring_examples
    windows = {passages.split: passages.window_digests(mix.window) for passages in (explanation, scoring)}
    told = np.sort(windows[explanation.split])
    pools, repeated = [], 0.0
    for passages in (explanation, scoring):
        positions = np.flatnonzero(passages.readable)
        digests = np.zeros(passages.num_tokens, np.uint64)
        digests[positions] = windows[passages.split][passages.starts(positions, mix)]
        eligible = passages.readable
        if passages is scoring:
            eligible = eligible & ~_is_among(digests, told)
            repeated = 1 - eligible.sum() / max(1, passages.num_readable)
        pools.append(ExamplePool(passages, digests, eligible, budget.seed))
    return Texts(pools[0], pools[1], Contexts(explanation, budget.graph.max_context), told, float(repeated))


class RangeIndexer:
    """Explains and scores features of one source, one after the other.

    Args:
        texts: what to learn from and score on.
        budget: how much of it.
        source: name of the source.
        token_texts: what each token shows as.
    """

    def __init__(self, texts: Texts, budget: Budget, source: str, token_texts: Sequence[str]) -> None:
        self.texts, self.budget, self.source, self.token_texts = texts, budget, source, token_texts
        self.shown = ExampleRows(texts.explanation.passages, "explanation", budget.explanation_examples)
        self.scored = ExampleRows(texts.scoring.passages, "scoring", budget.scoring_examples)
        self.rows: list[dict[str, Any]] = []

    def add(
        self, feature: int, explanation: FeatureFirings, scoring: FeatureFirings, near: Near = (None, None), graph: TokenGraph | None = None
    ) -> None:
        """Explain and score one feature.

        Args:
            feature: its index in the source.
            explanation: its firings in the explanation text.
            scoring: its firings in the scoring text.
            near: where its neighbours fire strongest in either.
            graph: its explanation; None: learn it from the firings.
        """
        positions, values = explanation
        row: dict[str, Any] = {
            "feature": feature,
            "density": len(values) / max(1, self.texts.explanation.passages.num_readable),
            "num_firing": len(values),
        }
        self.rows.append(row)
        if not len(values):
            row.update(max_activation=0.0, not_scored_reason=SILENT)
            return
        maximum, seed = float(values.max()), draw_seed(self.budget.seed, self.source, feature)
        shown = choose(self.texts.explanation, explanation, maximum, None, self.budget.explanation_examples, seed, near[0])
        self.shown.add(feature, shown, explanation, None)
        graph = graph or learn(self.texts.contexts, positions, values, self.budget.graph.max_patterns)
        top = shown.positions[shown.kinds == KINDS.index("top")]
        anchors = anchor_tokens(self.texts.explanation, top)
        counts = np.bincount(intervals_of(values, maximum), minlength=NUM_INTERVALS)
        row.update(
            max_activation=maximum,
            activation_histogram={"edges": np.linspace(0, maximum, NUM_INTERVALS + 1).tolist(), "counts": counts.tolist()},
            explanation=explain(graph, self.token_texts),
            patterns=patterns_json(graph, self.token_texts),
            single_token=len(anchors) == 1,
        )
        mix = self.budget.scoring_examples
        # The first draw is the one that is kept; the others say how much a score hangs on which examples were drawn.
        seeds = [seed, *(draw_seed(self.budget.seed, self.source, feature, draw) for draw in range(1, SCORING_DRAWS))]
        draws = [choose(self.texts.scoring, scoring, maximum, anchors, mix, each, near[1]) for each in seeds]
        row.update(self._score(row, graph, draws, scoring, float(values.mean())))

    def tables(self, logits: pa.Table) -> tuple[pa.Table, pa.Table]:
        """The rows of all features added so far: features (with the columns of `logits`, null where columns are in neither), and examples.

        Raises:
            FailureError: an example stands in both texts.
        """
        features = pa.Table.from_pylist(self.rows, schema=pa.schema([field for field in FEATURES_SCHEMA if field.name not in logits.column_names]))
        for name in logits.column_names:
            features = features.append_column(FEATURES_SCHEMA.field(name), logits.column(name))
        examples = join_rows(self.shown, self.scored)
        check_apart(examples, self.texts.told, self.budget)
        return features.select(FEATURES_SCHEMA.names), examples

    def _score(self, row: dict[str, Any], graph: TokenGraph, draws: list[Chosen], scoring: FeatureFirings, typical: float) -> dict[str, Any]:
        passages, mix = self.texts.scoring.passages, self.budget.scoring_examples
        windows = [passages.windows(chosen.positions, mix) for chosen in draws]
        nodes = graph.nodes(passages.tokens)
        predicted = [graph.predict(passages.tokens.reshape(-1)[each]) for each in windows]
        true = [self.scored.add(row["feature"], draws[0], scoring, predicted[0])]
        found = held_out_figures(nodes, graph.means, passages.readable, scoring, typical) if len(scoring[0]) else {}
        if num_distinct(self.texts.scoring, scoring[0]) < self.budget.min_firing_examples:
            return found | {"not_scored_reason": TOO_FEW}
        true += [self.scored.activations(chosen, scoring) for chosen in draws[1:]]

        def digits(draw: int, kinds: np.ndarray) -> list[np.ndarray]:
            readable = passages.readable[windows[draw][kinds]]
            return [quantised(values[draw][kinds][readable], row["max_activation"]) for values in (predicted, true)]

        scores = [spearman(*digits(draw, chosen.kinds != HARD)) for draw, chosen in enumerate(draws)]
        hard = np.isin(draws[0].kinds, FIRING_OR_HARD)
        return found | {
            "score_spearman": scores[0],
            "score_draws": scores,
            "score_pearson": pearson(*digits(0, draws[0].kinds != HARD)),
            "score_hard": spearman(*digits(0, hard)) if HARD in draws[0].kinds else None,
        }


def index_range(
    indexer: RangeIndexer,
    features: np.ndarray,
    explanation: Firings,
    scoring: Firings,
    neighbours: Neighbours,
    logits: pa.Table,
    reader: ModelReader | None = None,
) -> tuple[pa.Table, pa.Table]:
    """Explain and score a range of the examined features.

    Args:
        indexer: of the source.
        features: all examined features; the range is the rows of `neighbours`.
        explanation: firings of the range.
        scoring: likewise.
        neighbours: of the range.
        logits: columns that come from elsewhere, for the range.
        reader: of the source, where graphs are learned by ablation.
    """
    rows, graphs = range(neighbours.low, neighbours.low + len(logits)), dict[int, TokenGraph]()
    if reader is not None:
        peaks = [peak for row in rows for peak in peaks_of(indexer.texts.explanation, int(features[row]), explanation.of(row))]
        graphs = learn_by_ablation(reader, peaks, indexer.budget.graph.max_patterns)
    for row in rows:
        feature = int(features[row])
        indexer.add(feature, explanation.of(row), scoring.of(row), neighbours.candidates(row), graphs.get(feature))
    for name, column in neighbours.columns(features).items():
        logits = logits.append_column(FEATURES_SCHEMA.field(name), column)
    return indexer.tables(logits)


def check_apart(examples: pa.Table, told: np.ndarray, budget: Budget) -> None:
    """Raise FailureError if a scoring example comes from a sequence that an explanation example comes from, or repeats the explanation text.

    Args:
        examples: rows of `EXAMPLES_SCHEMA`.
        told: digests of all scoring-sized windows of the explanation text, ascending.
        budget: for the size of a scoring example.
    """
    used, split, sequence = (examples.column(name).to_numpy(zero_copy_only=False) for name in ("used_for", "split", "sequence_id"))
    scoring = used == "scoring"
    both = set(zip(split[scoring], sequence[scoring], strict=True)) & set(zip(split[~scoring], sequence[~scoring], strict=True))
    if both:
        raise FailureError(f"{len(both)} sequences (the first: {min(both)}) serve explaining and scoring: no score of this run can be trusted")
    tokens = examples.column("tokens").filter(pa.array(scoring)).combine_chunks().flatten().to_numpy().reshape(-1, budget.scoring_examples.window)
    digests = Passages("held_out", np.empty(0), tokens, ()).window_digests(tokens.shape[1]).reshape(tokens.shape)[:, 0]
    repeated = int(_is_among(digests, told).sum())
    if repeated:
        raise FailureError(f"{repeated} scoring examples stand word for word in the explanation text: no score of this run can be trusted")


def _is_among(digests: np.ndarray, ascending: np.ndarray) -> np.ndarray:
    # numpy's own hashes integers, at forty times the cost of looking them up
    return ascending[np.minimum(np.searchsorted(ascending, digests), len(ascending) - 1)] == digests
