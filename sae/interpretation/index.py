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
from sae.interpretation.contexts import Contexts
from sae.interpretation.example_rows import ExampleRows, join_rows
from sae.interpretation.examples import Chosen, ExamplePool, anchor_tokens, choose, intervals_of
from sae.interpretation.explanations import explain, patterns_json
from sae.interpretation.firings import FeatureFirings, Firings
from sae.interpretation.graph_learning import learn
from sae.interpretation.passages import Passages, load_passages, passage_ids
from sae.interpretation.records import FEATURES_SCHEMA, KINDS, NUM_INTERVALS, Budget
from sae.interpretation.sampling import draw_seed
from sae.interpretation.scoring import pearson, quantised, sparse_pearson, spearman
from sae.interpretation.token_graph import TokenGraph

SILENT = "never fires on the explanation text"
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
    told = np.unique(windows[explanation.split])
    pools, repeated = [], 0.0
    for passages in (explanation, scoring):
        positions = np.flatnonzero(passages.readable)
        digests = np.zeros(passages.num_tokens, np.uint64)
        digests[positions] = windows[passages.split][passages.starts(positions, mix)]
        eligible = passages.readable
        if passages is scoring:
            eligible = eligible & ~np.isin(digests, told)
            repeated = 1 - eligible.sum() / max(1, passages.num_readable)
        pools.append(ExamplePool(passages, digests, eligible, budget.seed))
    return Texts(pools[0], pools[1], Contexts(explanation, budget.max_context), told, float(repeated))


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

    def add(self, feature: int, explanation: FeatureFirings, scoring: FeatureFirings) -> None:
        """Explain and score one feature, given its firings in both texts."""
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
        shown = choose(self.texts.explanation, explanation, maximum, None, self.budget.explanation_examples, seed)
        self.shown.add(feature, shown, explanation, None)
        graph = learn(self.texts.contexts, positions, values, self.budget.max_patterns)
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
        chosen = choose(self.texts.scoring, scoring, maximum, anchors, self.budget.scoring_examples, seed)
        row.update(self._score(row, graph, chosen, scoring))

    def tables(self, logits: pa.Table) -> tuple[pa.Table, pa.Table]:
        """The rows of all features added so far: features (`logits` beside them), and examples.

        Raises:
            FailureError: an example stands in both texts.
        """
        features = pa.Table.from_pylist(self.rows, schema=pa.schema([field for field in FEATURES_SCHEMA if field.name not in logits.column_names]))
        for name in logits.column_names:
            features = features.append_column(FEATURES_SCHEMA.field(name), logits.column(name))
        examples = join_rows(self.shown, self.scored)
        check_apart(examples, self.texts.told, self.budget)
        return features.select(FEATURES_SCHEMA.names), examples

    def _score(self, row: dict[str, Any], graph: TokenGraph, chosen: Chosen, firings: FeatureFirings) -> dict[str, Any]:
        passages = self.texts.scoring.passages
        windows = passages.windows(chosen.positions, self.budget.scoring_examples)
        predicted = graph.predict(passages.tokens.reshape(-1)[windows])
        true = self.scored.add(row["feature"], chosen, firings, predicted)
        if chosen.num_distinct < self.budget.min_firing_examples:
            return {"not_scored_reason": TOO_FEW}
        digits = [quantised(values[passages.readable[windows]], row["max_activation"]) for values in (predicted, true)]
        everywhere = graph.predict(passages.tokens).reshape(-1)
        return {
            "score_spearman": spearman(*digits),
            "score_pearson": pearson(*digits),
            "score_all_tokens": sparse_pearson(everywhere, passages.readable, *firings),
        }


def index_range(
    indexer: RangeIndexer, features: np.ndarray, explanation: Firings, scoring: Firings, first_row: int, logits: pa.Table
) -> tuple[pa.Table, pa.Table]:
    """Explain and score the examined features `features`, the first of which is row `first_row` of the firings."""
    for row, feature in enumerate(features.tolist(), first_row):
        indexer.add(feature, explanation.of(row), scoring.of(row))
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
    repeated = int(np.isin(digests, told).sum())
    if repeated:
        raise FailureError(f"{repeated} scoring examples stand word for word in the explanation text: no score of this run can be trusted")
