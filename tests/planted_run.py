"""A run directory as the stages leave it, with planted features: each fires on a word it was given, some only after another word."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sae.concepts.labelled import ConceptsConfig
from sae.interpretation.language_model.records import SCHEMA as WORDS_SCHEMA
from sae.interpretation.records import EXAMPLES_SCHEMA, FEATURES_SCHEMA
from sae.rating.agreement import explanation_scores
from sae.rating.deck import DeckConfig, make_deck
from sae.rating.records import Rating, Ratings
from sae.rating.rubric import PARTS
from sae.storage import Place

HOSTILE = "</script><img src=x onerror=\"document.title='broken'\">"
HOSTILE_EXPLANATION = f"fires on {HOSTILE} & <b>bold</b> <!-- a comment"
WORDS = [" the", " of", " def", " return", " import", " class", " self", " value", " array", " if", " not", " is", " in", " None", "(", ")", ":"]
VOCABULARY = ["<|endoftext|>", "\n", "    ", "\t", HOSTILE, "\u202eright to left", "\\xe2\\x80", " naïve", " 日本", *WORDS]
TEXT_LENGTH = 21
HELD_OUT_MEDIANS = {
    **{"firing_precision": 0.76, "firing_recall": 0.33, "firing_f1": 0.46, "variance_explained": 0.41},
    **{"score_all_tokens": 0.67, "spearman_all_tokens": 0.21, "score_hard": None},
}
DENSITY_CLUSTERS = {
    "ultra_low": {"num_features": 128, "median_density": 2e-7, "median_encoder_bias": -1.25, "median_encoder_decoder_cosine": 0.12},
    "others": {"num_features": 3968, "median_density": 0.0021, "median_encoder_bias": -0.5, "median_encoder_decoder_cosine": 0.82},
}


def write_run(run: Place, num_features: int) -> Place:
    """Write a run with `num_features` examined features of each dictionary."""
    run.put_json("corpus/manifest.json", corpus_manifest())
    run.put_json("store/manifest.json", store_manifest())
    for number, name in enumerate(("relu", "topk")):
        write_dictionary(run.child("dictionaries", name), name, number)
        run.put_json(f"evaluation/{name}.json", evaluation(name, number))
        write_breakdown(run, name, number)
    for source, quality in (("relu", 0.62), ("topk", 0.7), ("neurons", 0.4), ("random_directions", 0.12)):
        write_interpretation(run, source, quality, num_features)
    run.put_json("config.json", {"output": "runs/planted", "store": None, "training": {"dictionaries": [{"name": "topk"}, {"name": "relu"}]}})
    cost = {"seconds": 150.4, "peak_rss_bytes": 3 * 2**30, "finished": True}
    run.put_json(
        "stages.json", {"stages": dict.fromkeys(("harvest", "train", "evaluate"), cost), "versions": {"torch": "2.13.0"}, "seeds": {"training": 7}}
    )
    return run


def corpus_manifest() -> dict:
    return {
        "config": {"text": ["dependencies"], "context_length": 256},
        "documents": {"read": 12000, "duplicates": 800, "train": 10600, "held_out": 600},
        "digest": "c" * 64,
    }


def store_manifest() -> dict:
    plan = {
        "subject": "deploy/subject",
        "subject_digest": "a" * 64,
        "context_length": 256,
        "hookpoints": {"blocks.0.mlp.hook_post": 512},
        "dtype": "float16",
        "num_sequences": 24_000,
    }
    return {"plan": plan, "shards": {}, "statistics": {"blocks.0.mlp.hook_post": {"rows": 3_012_608}}, "digest": "d" * 64}


def write_dictionary(place: Place, name: str, number: int) -> None:
    """Logs of 1,471 steps of 2,048 vectors; the first dictionary was resampled twice."""
    rows = []
    for step in range(20, 1480, 20):
        decay = np.exp(-step / 200)
        row = {"step": step, "vectors": step * 2048, "fvu": 0.05 + 0.1 * (1 - number) + 0.8 * decay, "l0": 20.0 if number else 14 + 2000 * decay**3}
        row |= {"losses": {"total": 3 + 40 * decay, "reconstruction": 2 + 30 * decay, "sparsity": 1 + 10 * decay}}
        row |= {"dead_fraction": max(0.0, 0.03 * number + 0.02 - 0.00001 * step), "density_histogram": densities(decay)}
        rows.append(row | {"step_seconds": 0.021 + 0.004 * number, "sync_seconds": 0.002, "read_seconds": 0.005})
    events = []
    if not number:
        for step, dead in ((147, 310), (294, 42)):
            events.append({"event": "resampled", "step": step, "vectors": step * 2048, "dead": dead, "resampled": dead})
            later = {"event": "after_resampling", "step": step + 74, "vectors": (step + 74) * 2048, "resampled_at_step": step}
            events.append(later | {"resampled": dead, "alive": dead - 3})
    put_lines(place, "training.jsonl", rows)
    put_lines(place, "events.jsonl", events)
    metadata = {"hookpoint": "blocks.0.mlp.hook_post"}
    config = {
        "architecture": name,
        "d_in": 512,
        "config": {"architecture": name, "d_sae": 4096},
        "metadata": metadata,
        "weights": {"sha256": "e" * 64},
    }
    place.put_json("config.json", config)
    place.put_json(
        "result.json",
        {"steps": 1471, "vectors": 3_012_608, "wall_seconds": 187.3, "seed": 0, "dead_fraction": 0.0119, "dead_window_vectors": 1_000_000},
    )


def densities(decay: float) -> dict:
    """A bell of features that moves to lower densities."""
    bins = -7 + 0.25 * np.arange(28)
    counts = np.round(600 * np.exp(-(((bins + 2.7 - 2 * decay) / 0.6) ** 2))).astype(int)
    return {"log10_first": -7.0, "log10_step": 0.25, "counts": counts.tolist(), "silent": 40}


def put_lines(place: Place, key: str, rows: list) -> None:
    place.put(key, "".join(json.dumps(row) + "\n" for row in rows).encode())


def evaluation(name: str, number: int) -> dict:
    """An evaluation report; the second dictionary is the better one."""
    spliced = 3.22 if number else 3.41
    entropies = {"clean": 3.18, "spliced": spliced, "mean_ablated": 4.02, "zero_ablated": 4.61}
    recovered = {of: (ablated - spliced) / (ablated - 3.18) for of, ablated in (("zero", 4.61), ("mean", 4.02))}
    edges = [round(-8 + 0.2 * step, 1) for step in range(41)]
    counts = [round(420 * np.exp(-(((edge + 2.7) / 0.7) ** 2))) if edge >= -5 else 0 for edge in edges[:-1]]
    counts[25] += 4096 - 49 - sum(counts)
    return {
        "name": name,
        "architecture": name,
        "d_in": 512,
        "d_sae": 4096,
        "hookpoint": "blocks.0.mlp.hook_post",
        "num_sequences": 512,
        "num_tokens": 130_048,
        "num_predictions": 129_536,
        "cross_entropy": entropies,
        "perplexity": {key: float(np.exp(value)) for key, value in entropies.items()},
        "kl_divergence": {"mean": 0.061, "quantiles": {"p50": 0.01, "p90": 0.1, "p99": 0.9}},
        "worst_percent": {"num_predictions": 1296, "kl_threshold": 1.25, "kl_mean": 2.5, "share_of_kl": 0.41, "loss_increase": 1.1},
        "top1_agreement": 0.913,
        **{f"loss_recovered_{of}": value for of, value in recovered.items()},
        **{f"loss_recovered_{of}_interval": [value - 0.004, value + 0.003] for of, value in recovered.items()},
        "fvu": 0.048 if number else 0.152,
        "cosine": 0.971,
        "norm_ratio": 0.93,
        "l0": 20.0 if number else 14.3,
        "silent_fraction": 0.0131,
        "ultra_low_density_fraction": None,
        "share_above_1_percent": 0.08,
        "share_above_10_percent": 0.002,
        "density_clusters": None if number else DENSITY_CLUSTERS,
        "density_histogram": {"log10_edges": edges, "counts": counts, "never": 49},
    }


def write_breakdown(run: Place, name: str, number: int) -> None:
    """Tables beside an evaluation report, as `sae.evaluation.report` describes them; the text before the worst prediction is hostile."""
    positions = np.arange(255)
    clean = 3.0 + 2.5 / (1 + positions)
    columns = {"clean": clean, "spliced": clean + 0.3 - 0.2 * number, "zero_ablated": clean + 1.4, "mean_ablated": clean + 0.8}
    columns |= {"kl_divergence": np.full(255, 0.06), "top1_agreement": np.full(255, 0.9), "loss_recovered_zero": np.full(255, 0.9)}
    counted = {"predictions": np.full(255, 512, np.uint64)}
    put_arrow(run, f"evaluation/{name}.positions.arrow", {"position": positions.astype(np.uint32)} | counted | columns)
    edges = np.array([0.0, 0.1, 0.3, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0, np.inf])
    means = {key: values[:12].tolist() for key, values in columns.items()} | {"kl_divergence": [0.01 * (1 + cell) for cell in range(11)] + [None]}
    counted = {"predictions": np.array([9000] * 11 + [0], np.uint64)}
    put_arrow(run, f"evaluation/{name}.losses.arrow", {"low": edges[:-1], "high": edges[1:]} | counted | means)
    worst = {"sequence": np.arange(20, dtype=np.uint64), "position": np.arange(20, dtype=np.uint32), "context": [f"import {HOSTILE}\n"] * 20}
    worst |= {"next_token": [" numpy"] * 20, "token_id": np.full(20, 3, np.uint32), "next_token_id": np.full(20, 4, np.uint32)}
    losses = {"clean": np.full(20, 0.1), "spliced": np.full(20, 7.5), "kl_divergence": np.linspace(9, 6, 20)}
    put_arrow(run, f"evaluation/{name}.worst.arrow", worst | losses)


def write_concepts(run: Place) -> None:
    """Two labels, one of them hostile, found by a feature but hardly by a neuron; as `sae.concepts.report` describes it."""
    labels = [{"label": label, "selection_tokens": 4000, "held_out_tokens": 3000, "chance_f1": 0.67} for label in ("hebrew", HOSTILE)]
    sources = []
    for source, f1 in (("neurons", 0.71), ("relu", 0.84), ("topk", 0.93)):
        detectors = [
            {
                "label": each["label"],
                "kind": "single",
                "units": [17],
                "signs": [1 if source == "topk" else -1],
                "threshold": 0.5,
                "selection_f1": f1 + 0.01,
                "f1": f1,
                "f1_interval": [f1 - 0.02, f1 + 0.02],
                "precision": 0.9,
                "sensitivity": 0.88,
                "specificity": 0.97,
                "precision_at_half_maximum": 1.0,
                "proxy_correlation": None if source == "neurons" else 0.74,
            }
            for each in labels
        ]
        beside = None if source == "neurons" else f1 - 0.71
        kind = {"mean_f1": f1, "mean_f1_interval": [f1 - 0.01, f1 + 0.01], "minus_neurons": beside}
        kind["minus_neurons_interval"] = None if beside is None else [beside - 0.15, beside + 0.02]
        sources.append({"source": source, "kinds": {"single": kind, "probe_5": kind}, "detectors": detectors})
    inputs = {
        **{"subject": "deploy/subject in float32", "tokenizer_digest": "e" * 64, "text_digest": "f" * 64, "context_length": 256},
        **{"dictionary_digests": {"topk": "d" * 64}, "hookpoint": "blocks.0.mlp.hook_post", "config": ConceptsConfig().model_dump(mode="json")},
    }
    run.put_json("concepts/concepts.json", {"labels": labels, "sources": sources, "inputs": inputs})


def put_arrow(place: Place, key: str, columns: dict) -> None:
    table, sink = pa.table(columns), pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    place.put(key, sink.getvalue())


def write_words(run: Place, source: str, num_features: int) -> None:
    """What a language model wrote: a sentence for every feature that fires but the second, which it refused to explain."""
    rows = []
    for rank in range(num_features - 1):
        refused = rank == 1
        row = dict.fromkeys(WORDS_SCHEMA.names) | {"feature": 3 * rank, "explainer": "highlights", "num_items": 60, "num_unread": 2 * (rank == 0)}
        row |= {"explanation": None if refused else HOSTILE_EXPLANATION if rank == 0 else f"the word {WORDS[rank % len(WORDS)].strip()}"}
        row |= {"explanation_outcome": "refused" if refused else "answered", "not_scored_reason": "no explanation" if refused else None}
        if not refused:
            row |= {"simulation_spearman": 0.4 + 0.001 * rank, "simulation_pearson": 0.5, "detection_accuracy": 0.8, "fuzzing_accuracy": 0.7}
        rows.append(row)
    place = run.child("interpretation", source)
    put_parquet(place, "llm_explanations.parquet", rows, WORDS_SCHEMA)
    known = {"median": 0.8, "interval": [0.78, 0.83], "num_features": 58}
    scores = {name: known | {"chance": 0.0} for name in ("simulation_spearman", "simulation_pearson")}
    scores |= {name: known | {"chance": 0.5} for name in ("detection_accuracy", "fuzzing_accuracy")}
    scores["logits_accuracy"] = {"median": None, "interval": None, "num_features": 0, "chance": 0.5}
    explainer = {"num_features": num_features - 1, "num_explained": num_features - 2, "num_scored": num_features - 2, "scores": scores}
    words = {"model": "planted-model", "requests": 500, "prompt_tokens": 90_000, "reply_tokens": 10_000, "cost": 0.25, "complete": True}
    words |= {"num_items": 1000, "num_unread": 20, "explainers": {"highlights": explainer}}
    place.put_json("summary.json", place.get_json("summary.json") | {"language_model": words})


def write_ratings(run: Place) -> None:
    """Two raters: what one gives follows the explanation score, the other gives two points less; their words are hostile."""
    deck = make_deck(run, VOCABULARY, DeckConfig(features_per_source=10))
    scores = explanation_scores(run, deck)
    ratings = Ratings(run, deck)
    for card in range(len(deck.cards)):
        points = int(np.clip(round(14 * scores[deck.feature(card)]), 2, 14))
        for rater, given in (("anna", points), ("ben", points - 2)):
            grades, left = {}, given
            for part in PARTS:
                grades[part.key] = min(part.most, left)
                left -= grades[part.key]
            if rater == "anna" or card < 20:
                ratings.add(rater, Rating(card=card, interpretation=HOSTILE, **grades))


def write_interpretation(run: Place, source: str, quality: float, num_features: int) -> None:
    """Features 0, 3, 6, ... of which the last never fires; feature 0 of every source is hostile."""
    draw = np.random.default_rng(len(source))
    rows, examples = [], []
    for rank in range(num_features):
        word = 4 if rank == 0 else 9 + rank % len(WORDS)
        silent = rank == num_features - 1
        score = None if silent else float(np.clip(draw.normal(quality, 0.15), -0.2, 0.98))
        rows.append(feature_row(3 * rank, word, score, silent, draw))
        if not silent:
            examples += example_rows(3 * rank, word, rows[-1]["max_activation"], draw)
    place = run.child("interpretation", source)
    put_parquet(place, "features.parquet", rows, FEATURES_SCHEMA)
    put_parquet(place, "examples.parquet", examples, EXAMPLES_SCHEMA)
    scores = [row["score_spearman"] for row in rows if row["score_spearman"] is not None]
    median = float(np.median(scores))
    summary = {"source": source, "explanation_score_median": median, "explanation_score_interval": [median - 0.02, median + 0.02]}
    counts = {"num_examined": len(rows), "num_live": len(rows) - 1, "num_scored": len(scores)}
    place.put_json(
        "summary.json", summary | counts | {"explanation_tokens": 522_240, "scoring_tokens": 130_560, "held_out_medians": HELD_OUT_MEDIANS}
    )


def feature_row(feature: int, word: int, score: float | None, silent: bool, draw: np.random.Generator) -> dict:
    maximum = 0.0 if silent else float(draw.uniform(2, 9))
    patterns = [{"tokens": [word], "texts": [VOCABULARY[word]], "mean": maximum / 2, "count": 40}]
    patterns.append({"tokens": [9, word], "texts": [VOCABULARY[9], VOCABULARY[word]], "mean": 0.9 * maximum, "count": 7})
    explanation = HOSTILE_EXPLANATION if word == 4 else f"fires on “{VOCABULARY[word].strip()}”, more strongly after “the”"
    edges = np.linspace(0, maximum, 13).tolist()
    histogram = {"edges": edges, "counts": [round(400 * np.exp(-bin / 3)) for bin in range(12)]}
    effects = [
        {"token_id": token, "text": VOCABULARY[token], "effect": 1.5 - 0.1 * rank} for rank, token in enumerate((word, 5, 2, 1, 12, 13, 14, 15))
    ]
    lowered = [{**effect, "effect": -effect["effect"] / 2} for effect in reversed(effects)]
    return {
        "feature": feature,
        "density": 0.0 if silent else float(10 ** draw.uniform(-5, -1)),
        "num_firing": 0 if silent else 2000,
        "max_activation": maximum,
        "activation_histogram": None if silent else histogram,
        "explanation": "" if silent else explanation,
        "patterns": json.dumps({"default": 0.0, "patterns": [] if silent else patterns}),
        "score_spearman": score,
        "score_pearson": score,
        "score_all_tokens": score,
        "firing_precision": None if silent else 0.75,
        "firing_recall": None if silent else 0.3,
        "firing_f1": None if silent else 0.4286,
        "variance_explained": None if silent else -0.25,
        "co_firing": [{"feature": feature + 3 * away, "phi": 0.9 / away} for away in (1, 2)],
        "similar": [{"feature": 100_000, "cosine": 0.9}, {"feature": max(feature - 3, 0), "cosine": 0.5}],
        "not_scored_reason": "silent" if silent else None,
        "single_token": None if silent else feature % 2 == 0,
        "top_logits": [] if silent else effects,
        "bottom_logits": [] if silent else sorted(lowered, key=lambda effect: effect["effect"]),
    }


def example_rows(feature: int, word: int, maximum: float, draw: np.random.Generator) -> list[dict]:
    """Twelve top examples, two of each of three intervals, and scoring examples of every kind."""
    kinds = [("top", 11)] * 12 + [("interval", interval) for interval in (11, 6, 1) for _ in range(2)]
    shown = [example_row(feature, word, maximum, kind, interval, draw) for kind, interval in kinds]
    scored_kinds = [("top", 11)] * 6 + [("interval", 5)] * 4 + [("random", -1)] * 10 + [("out_of_context", -1)] * 20
    scored = [example_row(feature, word, maximum, kind, interval, draw) for kind, interval in scored_kinds]
    for row in scored:
        row["predicted"] = [0.8 * value if value else (0.3 * maximum if place == 2 else 0.0) for place, value in enumerate(row["activations"])]
        row |= {"used_for": "scoring", "split": "held_out"}
    return shown + scored


def example_row(feature: int, word: int, maximum: float, kind: str, interval: int, draw: np.random.Generator) -> dict:
    tokens = draw.integers(1, len(VOCABULARY), TEXT_LENGTH)
    tokens[tokens == word] = 9
    activations = np.zeros(TEXT_LENGTH)
    peak = 12
    tokens[peak] = word
    if interval >= 0:
        activations[peak] = maximum * (interval + 1) / 12
        activations[peak + 2] = activations[peak] / 3
    return {
        "feature": feature,
        "kind": kind,
        "interval": interval,
        "used_for": "explanation",
        "split": "train",
        "sequence_id": int(draw.integers(24_000)),
        "position": int(draw.integers(200)),
        "peak": peak,
        "tokens": tokens.tolist(),
        "activations": activations.tolist(),
        "predicted": None,
    }


def put_parquet(place: Place, key: str, rows: list[dict], schema: pa.Schema) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema), sink)
    place.put(key, sink.getvalue())
