"""Finished interpretations of features whose meaning is known: feature k fires on word k, and raises the words that follow it in the list."""

import json
import re
import zlib
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sae.interpretation.language_model.material import Vocabulary
from sae.interpretation.records import EXAMPLES_SCHEMA, FEATURES_SCHEMA, NUM_INTERVALS, Budget
from sae.interpretation.sources.directory import SourcePlan
from sae.interpretation.sources.sources import SourceSpec
from sae.interpretation.summary import summarise
from sae.interpretation.summary_record import put_summary
from sae.records import digests_of, put_record
from sae.storage import Place

WORDS = ["<|end|>", *(f" w{number:02d}" for number in range(1, 50))]
VOCABULARY = Vocabulary(WORDS, {0})
RAISED, FURTHER = 10, 15
STRONGEST = 3.0
MIX = {
    "explanation": {"top": 10, "interval": 12, "random": 5},
    "scoring": {"top": 6, "interval": 24, "random": 10, "out_of_context": 20, "hard_negative": 5},
}
WINDOW = {"explanation": 11, "scoring": 9}
SPLIT = {"explanation": "train", "scoring": "held_out"}


def example(draw, feature, kind, used_for, number):
    """A window of random words; the feature's own stands in the middle where the example fires, and nowhere else."""
    size = WINDOW[used_for]
    tokens = draw.choice([token for token in range(1, len(WORDS)) if token != feature], size)
    activations = np.zeros(size)
    if kind in ("top", "interval"):
        tokens[size // 2] = feature
        activations[size // 2] = STRONGEST if kind == "top" else draw.uniform(0.2, STRONGEST)
    strength = activations.max()
    return {
        "feature": feature,
        "kind": kind,
        "interval": int(np.ceil(strength / STRONGEST * NUM_INTERVALS)) - 1 if strength else -1,
        "used_for": used_for,
        "split": SPLIT[used_for],
        "sequence_id": number,
        "position": 1,
        "peak": size // 2,
        "tokens": tokens.tolist(),
        "activations": activations.tolist(),
    }


def write_source(place, features=range(7, 19), silent=(), rare=()):
    """A source whose features fire on the word of their number; `silent` ones never, `rare` ones too seldom to be scored."""
    draw = np.random.default_rng(zlib.crc32(place.url.rpartition("/")[2].encode()))
    every, examples, rows = sorted({*features, *silent, *rare}), [], []
    for feature in every:
        for used_for, kinds in MIX.items() if feature not in silent else ():
            chosen = [kind for kind, count in kinds.items() for _ in range(count)]
            examples += [example(draw, feature, kind, used_for, number) for number, kind in enumerate(chosen)]
        rows.append(
            {
                "feature": feature,
                "density": 0.02,
                "num_firing": 0 if feature in silent else 300,
                "max_activation": STRONGEST,
                "activation_histogram": {"edges": np.linspace(0, STRONGEST, NUM_INTERVALS + 1).tolist(), "counts": [25] * NUM_INTERVALS},
                "not_scored_reason": "too few firing examples" if feature in rare else "never fires" if feature in silent else None,
                "single_token": True,
                "top_logits": [{"token_id": word, "text": WORDS[word], "effect": 1.0} for word in raised(feature)[:RAISED]],
                "further_logits": raised(feature)[RAISED:],
            }
        )
    for name, records, schema in (("features", rows, FEATURES_SCHEMA), ("examples", examples, EXAMPLES_SCHEMA)):
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(records, schema), sink)
        place.put(f"{name}.parquet", sink.getvalue())
    write_records(place, pa.Table.from_pylist(rows, FEATURES_SCHEMA))
    return place


def write_records(place, features):
    """Plan and summary of the source whose tables lie in `place`."""
    name, any_digest = place.url.rpartition("/")[2], "a" * 64
    spec = SourceSpec(name=name, kind="dictionary", num_features=100)
    digests = dict.fromkeys(("source_digest", "subject_digest", "corpus_digest", "store_digest"), any_digest)
    put_record(place, "plan.json", SourcePlan(name=name, kind="dictionary", hookpoint="blocks.0.mlp.hook_post", budget=Budget(), **digests))
    tables = digests_of(place, ("plan.json", "features.parquet", "examples.parquet"))
    texts = {"explanation_tokens": 1000, "scoring_tokens": 1000, "repeated_fraction": 0.0}
    put_summary(place, summarise(features, spec, "blocks.0.mlp.hook_post", Budget()) | texts | {"tables": tables})


def raised(feature):
    return [1 + (feature + step) % (len(WORDS) - 1) for step in range(RAISED + FURTHER)]


def word_in(explanation):
    return re.search(r" w\d\d", explanation).group()


def honest(question):
    """Explains what it sees, and judges by the word that the explanation names."""
    if question.purpose == "explain":
        marked = Counter(" " + word for line in question.block("pieces") for word in word_list(line))
        return f"They agree.\nEXPLANATION: It fires on the word {marked.most_common(1)[0][0]} anywhere."
    return judged(question, word_in(question.explanation) if question.purpose != "probe" else "")


def judged(question, word):
    if question.purpose == "simulation":
        digits = [[9 * (token == word) for token in json.loads(piece)] for piece in question.pieces]
        return json.dumps({str(number): each for number, each in enumerate(digits, 1)})
    if question.purpose == "detection":
        return str([int(word in piece) for piece in question.pieces])
    if question.purpose == "fuzzing":
        return str([int(f"<<{word}>>" in piece) for piece in question.pieces])
    if question.purpose == "logits":
        likely = {WORDS[each] for each in raised(WORDS.index(word))}
        return str([int(json.loads(piece) in likely) for piece in question.pieces])
    return "ready"


def word_list(line):
    return [word for marked in re.findall(r"<<(.*?)>>", line) for word in marked.split()]


def truth_of(place: Place):
    """The right digits of every scoring example, by its tokens."""
    rows = pq.read_table(pa.BufferReader(place.get("examples.parquet"))).to_pylist()
    digits = [np.rint(np.array(row["activations"]) * 9 / STRONGEST).astype(int).tolist() for row in rows]
    return {tuple(WORDS[token] for token in row["tokens"]): each for row, each in zip(rows, digits, strict=True)}
