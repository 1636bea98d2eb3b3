"""A run directory as the stages leave it, with planted features: each fires on a word it was given, some only after another word."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from planted_records import HOSTILE, alter_summary, write_evaluation, write_manifests, write_result, write_stages, write_summary

from sae.concepts.labelled import ConceptsConfig
from sae.concepts.report import ConceptReport
from sae.concepts.report import write_concepts as store_concepts
from sae.interpretation.language_model.records import SCHEMA as WORDS_SCHEMA
from sae.interpretation.language_model.records import SCORES
from sae.interpretation.language_model.scores import CHANCE
from sae.interpretation.records import EXAMPLES_SCHEMA, FEATURES_SCHEMA
from sae.interpretation.text.vocabulary import put_vocabulary
from sae.rating.agreement import explanation_scores
from sae.rating.deck import DeckConfig, make_deck
from sae.rating.records import Rating, Ratings
from sae.rating.rubric import PARTS
from sae.storage import Place
from sae.subject.tokens_shown import TokenTexts

HOSTILE_EXPLANATION = f"fires on {HOSTILE} & <b>bold</b> <!-- a comment"
WORDS = [" the", " of", " def", " return", " import", " class", " self", " value", " array", " if", " not", " is", " in", " None", "(", ")", ":"]
VOCABULARY = ["<|endoftext|>", "\n", "    ", "\t", HOSTILE, "\u202eright to left", "\\xe2\\x80", " naïve", " 日本", *WORDS]
TEXT_LENGTH = 21


def write_run(run: Place, num_features: int) -> Place:
    """Write a run with `num_features` examined features of each dictionary."""
    write_manifests(run)
    for number, name in enumerate(("relu", "topk")):
        write_dictionary(run.child("dictionaries", name), name, number)
        write_evaluation(run, name, number)
    for source, quality in (("relu", 0.62), ("topk", 0.7), ("neurons", 0.4), ("random_directions", 0.12)):
        write_interpretation(run, source, quality, num_features)
    run.put_sealed("config.json", {"output": "runs/planted", "store": None, "training": {"dictionaries": [{"name": "topk"}, {"name": "relu"}]}})
    write_stages(run)
    return run


class PlantedTokenizer:
    """The tokenizer of the planted corpus, as far as a vocabulary is written from it."""

    digest = "f" * 64
    token_texts = TokenTexts([text.encode() for text in VOCABULARY], {0})


def write_vocabulary(run: Place) -> None:
    """The vocabulary as the interpretation leaves it; `write_run` writes none, as earlier versions did."""
    put_vocabulary(run.child("interpretation"), PlantedTokenizer())


def write_dictionary(place: Place, name: str, number: int, architecture: str | None = None) -> None:
    """Logs of 1,471 steps of 2,048 vectors; the first dictionary was resampled twice."""
    rows = []
    for step in range(20, 1480, 20):
        decay = np.exp(-step / 200)
        row = {"step": step, "vectors": step * 2048, "fvu": 0.05 + 0.1 * (1 - number) + 0.8 * decay, "l0": 20.0 if number else 14 + 2000 * decay**3}
        row |= {"losses": {"total": 3 + 40 * decay, "reconstruction": 2 + 30 * decay, "sparsity": 1 + 10 * decay}}
        row |= {"dead_fraction": max(0.0, 0.03 * number + 0.02 - 0.00001 * step), "density_histogram": densities(decay)}
        row |= {"density_quantiles": {"0.05": 0.0001, "0.5": 0.002, "0.95": 0.03}, "window_vectors": 20 * 2048, "learning_rate": 0.0006}
        rows.append(row | {"step_seconds": 0.021 + 0.004 * number, "sync_seconds": 0.002, "read_seconds": 0.005, "seconds": 0.12 * step})
    events = []
    if not number:
        for step, dead in ((147, 310), (294, 42)):
            events.append({"event": "resampled", "step": step, "vectors": step * 2048, "dead": dead, "resampled": dead})
            later = {"event": "after_resampling", "step": step + 74, "vectors": (step + 74) * 2048, "resampled_at_step": step}
            events.append(later | {"resampled": dead, "alive": dead - 3})
    put_lines(place, "training.jsonl", rows)
    put_lines(place, "events.jsonl", events)
    write_result(place, name, architecture or name, rows[-1])


def log_row(step: int, **changes: object) -> dict:
    """A row of a log of one vector a step."""
    row = {"step": step, "vectors": step, "fvu": 0.5, "l0": 9.0, "losses": {"total": 1.0}, "dead_fraction": 0.0, "density_quantiles": {"0.5": 1e-3}}
    row |= {"density_histogram": densities(1.0), "window_vectors": 1, "learning_rate": 1e-3}
    return row | dict.fromkeys(("seconds", "step_seconds", "read_seconds", "sync_seconds"), 0.1) | changes


def densities(decay: float) -> dict:
    """A bell of features that moves to lower densities."""
    bins = -7 + 0.25 * np.arange(28)
    counts = np.round(600 * np.exp(-(((bins + 2.7 - 2 * decay) / 0.6) ** 2))).astype(int)
    return {"log10_first": -7.0, "log10_step": 0.25, "counts": counts.tolist(), "silent": 40}


def put_lines(place: Place, key: str, rows: list) -> None:
    place.put(key, "".join(json.dumps(row) + "\n" for row in rows).encode())


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
    store_concepts(run.child("concepts"), ConceptReport.parse({"labels": labels, "sources": sources, "inputs": inputs}))


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
    known = {"median": 0.8, "interval": [0.78, 0.83], "num_features": 58, "single_token": 0.9, "multiple_tokens": 0.7}
    unknown = {"median": None, "interval": None, "num_features": 0, "single_token": None, "multiple_tokens": None}
    scores = {name: unknown | {"chance": CHANCE.get(name)} for name in SCORES}
    for name in ("simulation_spearman", "simulation_pearson", "detection_accuracy", "fuzzing_accuracy"):
        scores[name] |= known
    counts = {"num_features": num_features - 1, "num_explained": num_features - 2, "num_scored": num_features - 2}
    explainer = counts | {"not_explained": {"refused": 1}, "not_scored": {"no explanation": 1}, "scores": scores}
    words = {"model": "planted-model", "requests": 500, "prompt_tokens": 90_000, "reply_tokens": 10_000, "cost": 0.25, "complete": True}
    words |= {"num_items": 1000, "num_unread": 20, "explainers": {"highlights": explainer}, "seed": 0, "num_sampled": num_features - 1}
    words |= {"num_done": num_features - 1, "prompts": {"explain": "a" * 64}, "settings": {}, "outcomes": {"explain": {"answered": 18, "refused": 1}}}
    alter_summary(run, source, language_model=words)


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
    write_summary(run, source, pa.Table.from_pylist(rows, FEATURES_SCHEMA))


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
