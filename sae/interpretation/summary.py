"""The figures of a source: medians over its scored features, with how sure one may be of them."""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sae.interpretation.records import Budget
from sae.interpretation.scoring import median_interval
from sae.interpretation.sources.sources import SourceSpec

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
HELD_OUT = ("firing_precision", "firing_recall", "firing_f1", "variance_explained", "score_all_tokens", "spearman_all_tokens", "score_hard")
HISTOGRAM_BINS = 40  # over [-1, 1]


def summarise(features: pa.Table, spec: SourceSpec, hookpoint: str, budget: Budget) -> dict[str, Any]:
    """The summary of a source; `records` lists its fields.

    Args:
        features: rows of `FEATURES_SCHEMA`, one per examined feature.
        spec: the source.
        hookpoint: where it reads.
        budget: what it was given.
    """
    scored = features.filter(pc.is_valid(features.column("score_spearman")))
    scores = _numbers(scored, "score_spearman")
    reasons = Counter(reason for reason in features.column("not_scored_reason").to_pylist() if reason)
    counts, edges = np.histogram(scores, bins=HISTOGRAM_BINS, range=(-1, 1))
    return {
        "source": spec.name,
        "kind": spec.kind,
        "control": spec.is_control,
        "hookpoint": hookpoint,
        "num_features": spec.num_features,
        "num_examined": len(features),
        "num_live": int(pc.sum(pc.greater(features.column("num_firing"), 0)).as_py() or 0),
        "num_scored": len(scores),
        "not_scored": dict(reasons),
        "explanation_score_median": _median(scores),
        "explanation_score_interval": list(median_interval(scores, budget.seed, spec.name)) if len(scores) else None,
        "draw_medians": _draw_medians(features),
        "pearson_median": _median(_numbers(features, "score_pearson")),
        "all_tokens_median": _median(_numbers(scored, "score_all_tokens")),
        "held_out_medians": {name: _median(_numbers(scored, name)) for name in HELD_OUT},
        "score_quantiles": {str(quantile): float(np.quantile(scores, quantile)) for quantile in QUANTILES} if len(scores) else None,
        "score_histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
        "single_token": _split(features, budget.seed, single=True),
        "multiple_tokens": _split(features, budget.seed, single=False),
        "config": budget.model_dump(mode="json"),
        "seed": budget.seed,
    }


def _split(features: pa.Table, seed: int, *, single: bool) -> dict[str, Any]:
    part = features.filter(pc.equal(features.column("single_token"), pa.scalar(single)))
    scores = _numbers(part, "score_spearman")
    interval = list(median_interval(scores, seed, f"single={single}")) if len(scores) else None
    return {"num_features": len(part), "num_scored": len(scores), "explanation_score_median": _median(scores), "explanation_score_interval": interval}


def _draw_medians(features: pa.Table) -> list[float]:
    draws = np.array(features.column("score_draws").drop_null().to_pylist(), np.float64)
    return np.median(draws, axis=0).tolist() if len(draws) else []


def _numbers(table: pa.Table, column: str) -> np.ndarray:
    return table.column(column).drop_null().to_numpy()


def _median(values: np.ndarray) -> float | None:
    return float(np.median(values)) if len(values) else None
