"""The figures of a source's explanations in words, for its `summary.json` under `language_model`.

::

    {"model", "prompts" {name: SHA-256}, "settings", "seed", "num_sampled", "num_done", "complete" (every sampled feature is done),
     "requests", "prompt_tokens", "reply_tokens", "cost", "outcomes" {purpose: {outcome: requests}}, "num_items", "num_unread",
     "explainers" {name: {"num_features", "num_explained", "not_explained" {outcome: features}, "num_scored", "not_scored" {reason: features},
                          "scores" {score: {"median", "interval" [low, high], "num_features", "chance", "single_token", "multiple_tokens"}}}}}

`num_scored` counts features with at least one score, `not_scored` those that lack at least one. Medians are over features; intervals are 95 %
bootstrap intervals of the median over features, null where nothing was scored; `single_token` and `multiple_tokens` are the medians over
those features alone; `chance` is null where it depends on the data.
"""

import json
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sae.interpretation.language_model.config import LanguageModelConfig
from sae.interpretation.language_model.records import SCORES
from sae.interpretation.language_model.scores import CHANCE
from sae.interpretation.scoring import median_interval

COUNTED = ("requests", "prompt_tokens", "reply_tokens", "cost", "num_items", "num_unread")


def summarise_explanations(rows: pa.Table, config: LanguageModelConfig, source: str, seed: int, sampled: list[int]) -> dict[str, Any]:
    """The summary of a source.

    Args:
        rows: of `records.SCHEMA`.
        config: what was asked for.
        source: its name.
        seed: of the bootstrap.
        sampled: the features that were to be explained.
    """
    rows = rows.filter(pc.is_in(rows.column("feature"), pa.array(sampled, pa.uint32())))
    outcomes: dict[str, Counter[str]] = {}
    for each in rows.column("outcomes").to_pylist():
        for purpose, counts in json.loads(each).items():
            outcomes.setdefault(purpose, Counter()).update(counts)
    done = len(pc.unique(rows.column("feature")))
    return {
        "model": config.model,
        "prompts": {name: digest for each in pc.unique(rows.column("prompts")).to_pylist() for name, digest in json.loads(each).items()},
        "settings": config.determining(),
        "seed": seed,
        "num_sampled": len(sampled),
        "num_done": done,
        "complete": done == len(sampled),
        **{name: pc.sum(rows.column(name)).as_py() or 0 for name in COUNTED},
        "outcomes": {purpose: dict(counts) for purpose, counts in sorted(outcomes.items())},
        "explainers": {
            name: _explainer(rows.filter(pc.equal(rows.column("explainer"), name)), f"{source}/{name}", seed) for name in config.explainers
        },
    }


def _explainer(rows: pa.Table, name: str, seed: int) -> dict[str, Any]:
    explained = pc.is_valid(rows.column("explanation"))
    reasons = [reason for reason in rows.column("not_scored_reason").to_pylist() if reason]
    missing = rows.filter(pc.invert(explained)).column("explanation_outcome").to_pylist()
    return {
        "num_features": len(rows),
        "num_explained": len(rows) - len(missing),
        "not_explained": dict(Counter(missing)),
        "num_scored": sum(any(row[score] is not None for score in SCORES) for row in rows.select(SCORES).to_pylist()),
        "not_scored": dict(Counter(reasons)),
        "scores": {score: _score(rows, score, f"{name}/{score}", seed) for score in SCORES},
    }


def _score(rows: pa.Table, score: str, name: str, seed: int) -> dict[str, Any]:
    values = _values(rows, score)
    split = {
        key: _values(rows.filter(pc.equal(rows.column("single_token"), pa.scalar(key == "single_token"))), score)
        for key in ("single_token", "multiple_tokens")
    }
    return {
        "median": _median(values),
        "interval": list(median_interval(values, seed, name)) if len(values) else None,
        "num_features": len(values),
        "chance": CHANCE.get(score),
        **{key: _median(part) for key, part in split.items()},
    }


def _values(rows: pa.Table, score: str) -> np.ndarray:
    return rows.column(score).drop_null().to_numpy()


def _median(values: np.ndarray) -> float | None:
    return float(np.median(values)) if len(values) else None
