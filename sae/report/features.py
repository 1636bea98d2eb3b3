"""The features that travel inside the report: which ones, and how they are packed.

The packed form (what `report.js` reads, compressed with gzip and written in base64) is one JSON object: `tokens`, the texts of all tokens there,
and `sources`, each with `name`, `label`, `note` and `features`. Of a feature: `i` its index, `e` explanation, `p` patterns [text, predicted
activation], `s` score, `z` 1 if it fires on a single token, `d` density, `m` largest activation, `h` counts of its activation histogram, `u` and `b`
the most raised and most lowered tokens [text, effect], `f` and `y` the features of this file that fire with it [feature, phi] and that write like it
[feature, cosine], `x` examples; where there are such, `o` precision, recall and F1 of firing and variance explained, `l` explanations in words
[explainer, sentence, outcome, scores [name, value], notes] and `v` what people said [rater, points, words]. Of an example: `k` kind (0 top, 1
interval, 2 scoring), `w` [split, sequence, first position], `c` index of the token it was chosen for, `t` token numbers, `a` activations and `q`
predictions as pairs (index, share of `m` in thousandths).
"""

import base64
import gzip
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt

from sae.config import Config, Seed
from sae.interpretation.sources.directory import examples_table, features_table
from sae.rating.packing import TokenNumbers, pairs
from sae.report.gather import ExplainedSource
from sae.report.held_out import packed_figures, packed_near
from sae.report.words import packed_words, words_of
from sae.storage import Place, parse_json

SCORED_ORDER = {"top": 0, "interval": 1, "out_of_context": 2, "random": 3, "hard_negative": 4}


class BrowserConfig(Config):
    """Configuration of how much of the interpretation the report carries with it."""

    features_per_source: PositiveInt = Field(1000, le=10**6, description="features of each source, at most")
    top_examples: NonNegativeInt = Field(8, le=1000, description="strongest examples of a feature")
    examples_per_interval: NonNegativeInt = Field(1, le=1000, description="examples of each activation interval")
    scoring_examples: NonNegativeInt = Field(8, le=1000, description="examples that show predicted and true activations")
    patterns: NonNegativeInt = Field(10, le=1000, description="patterns of an explanation, strongest first")
    logits: NonNegativeInt = Field(8, le=1000, description="most raised and most lowered tokens, each")
    max_data_bytes: PositiveInt = Field(
        16_000_000, le=2**30, description="bytes of all features together, before compression; past it fewer features are taken"
    )
    seed: Seed = Field(0, description="of the sample of features")


Said = Mapping[tuple[str, int], Sequence[tuple[str, float, str]]]


def feature_data(
    run: Place, sources: Sequence[ExplainedSource], token_texts: Sequence[str] | None, config: BrowserConfig, said: Said | None = None
) -> str:
    """The packed features of all sources as JSON; `said` is what people said of them."""
    tokens = TokenNumbers(token_texts)
    packed: dict[str, dict[str, Any]] = {}
    left = config.max_data_bytes
    # Small sources first: what they leave of their share is there for the large ones.
    for place, source in enumerate(sorted(sources, key=lambda each: len(each.live()))):
        features, used = _pack_source(run, source, tokens, config, left // (len(sources) - place), said or {})
        packed[source.name] = {"name": source.name, "label": source.label, "note": _note(source, len(features)), "features": features}
        left -= used
    return compact_json({"tokens": tokens.texts, "sources": [packed[source.name] for source in sources]})


def choose_features(source: ExplainedSource, config: BrowserConfig, rated: Sequence[int] = ()) -> list[int]:
    """The features of a source to show: those people rated, then the best explained and a seeded sample of all live ones in turn."""
    live = source.live()
    scores = np.nan_to_num(source.score[live], nan=-np.inf)
    best = live[np.argsort(-scores, kind="stable")]
    sample = np.random.default_rng(config.seed).permutation(live)
    alternating = (int(source.feature[row]) for pair in zip(best, sample, strict=True) for row in pair)  # so that any cut keeps both
    return list(dict.fromkeys([*rated, *alternating]))[: config.features_per_source]


def compressed(data: str) -> str:
    """`data` with gzip, in base64: two fifths of its size, and nothing in it that HTML could read as markup. The same bytes each time."""
    return base64.b64encode(gzip.compress(data.encode(), 6, mtime=0)).decode()


def compact_json(value: Any) -> str:
    """`value` as JSON without a byte too many."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _note(source: ExplainedSource, shown: int) -> str:
    live = len(source.live())
    examined = f"{live:,} of {len(source.feature):,} examined {source.plural} fire on the text"
    if shown == live:
        return f"{source.label}: {examined}; all of them are in this file."
    return f"{source.label}: {examined}; {shown:,} are in this file: the best explained and a random sample of all, in equal parts."


def _pack_source(
    run: Place, source: ExplainedSource, tokens: TokenNumbers, config: BrowserConfig, budget: int, said: Said
) -> tuple[list[dict[str, Any]], int]:
    chosen = choose_features(source, config, [feature for name, feature in said if name == source.name])
    words = words_of(run, source, chosen)
    place = run.child("interpretation", source.name)
    tables = source.summary["tables"]
    details = {row["feature"]: row for row in features_table(place, tables, chosen).to_pylist()}
    examples = examples_table(place, tables, chosen)
    starts = dict(_runs(examples["feature"].to_numpy()))
    features, used = [], 0
    for feature in chosen:
        start, stop = starts.get(feature, (0, 0))
        record = _pack_feature(details[feature], examples.slice(start, stop - start).to_pylist(), tokens, config)
        record["f"], record["y"] = packed_near(details[feature], details.keys())
        if (figures := packed_figures(details[feature])) is not None:
            record["o"] = figures
        if feature in words:
            record["l"] = packed_words(words[feature])
        if (source.name, feature) in said:
            record["v"] = list(said[source.name, feature])
        used += len(compact_json(record).encode()) + 1
        if used > budget:
            break
        features.append(record)
    packed = {record["i"] for record in features}
    for record in features:  # what the bytes left no room for has no card to lead to
        record["f"], record["y"] = packed_near(details[record["i"]], packed)
    return features, used


def _runs(values: np.ndarray) -> Iterable[tuple[int, tuple[int, int]]]:
    """Each value of a sorted column with the range of rows that hold it."""
    unique, first = np.unique(values, return_index=True)
    for value, start, stop in zip(unique, first, [*first[1:], len(values)], strict=True):
        yield int(value), (int(start), int(stop))


def _pack_feature(row: dict[str, Any], examples: list[dict[str, Any]], tokens: TokenNumbers, config: BrowserConfig) -> dict[str, Any]:
    patterns = parse_json(row["patterns"], f"patterns of feature {row['feature']}")["patterns"] if row["patterns"] else []
    histogram = row["activation_histogram"] or {"counts": []}
    maximum = row["max_activation"]
    return {
        "i": row["feature"],
        "e": row["explanation"] or "",
        "p": [["".join(each["texts"]), _rounded(each["mean"])] for each in patterns[: config.patterns]],
        "s": _rounded(row["score_spearman"]),
        "r": row["not_scored_reason"],
        "z": None if row["single_token"] is None else int(row["single_token"]),
        "d": _rounded(row["density"]),
        "m": _rounded(maximum),
        "h": histogram["counts"],
        "u": [[each["text"], _rounded(each["effect"])] for each in row["top_logits"][: config.logits]],
        "b": [[each["text"], _rounded(each["effect"])] for each in row["bottom_logits"][: config.logits]],
        "x": [_pack_example(kind, each, maximum, tokens) for kind, each in _choose_examples(examples, config)],
    }


def _choose_examples(examples: list[dict[str, Any]], config: BrowserConfig) -> list[tuple[int, dict[str, Any]]]:
    shown = [each for each in examples if each["used_for"] == "explanation"]
    top = [each for each in shown if each["kind"] == "top"][: config.top_examples]
    intervals = [each for interval in range(127, -1, -1) for each in shown if each["kind"] == "interval" and each["interval"] == interval]
    first = [each for place, each in enumerate(intervals) if _rank(intervals, place) < config.examples_per_interval]
    scored = _in_turn([each for each in examples if each["used_for"] == "scoring"])[: config.scoring_examples]
    return [(0, each) for each in top] + [(1, each) for each in first] + [(2, each) for each in scored]


def _rank(intervals: list[dict[str, Any]], place: int) -> int:
    return sum(each["interval"] == intervals[place]["interval"] for each in intervals[:place])


def _in_turn(scored: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One example of each kind after the other, so that the first few show every kind."""
    seen = dict.fromkeys(SCORED_ORDER, 0)
    ranks = []
    for each in scored:
        ranks.append((seen[each["kind"]], SCORED_ORDER[each["kind"]]))
        seen[each["kind"]] += 1
    return [each for _, each in sorted(zip(ranks, scored, strict=True), key=lambda pair: pair[0])]


def _pack_example(kind: int, example: dict[str, Any], maximum: float, tokens: TokenNumbers) -> dict[str, Any]:
    packed = {
        "k": kind,
        "w": [example["split"], example["sequence_id"], example["position"]],
        "c": example["peak"],
        "t": tokens.line(example["tokens"]),
        "a": pairs(example["activations"], maximum, math.ceil),  # what fires at all is shown
    }
    if example["predicted"] is not None:
        packed["q"] = pairs(example["predicted"], maximum, round)
    return packed


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.4g}")
