"""From firings to the rows of the index: planted features are explained and scored as what they are."""

import json

import numpy as np
import pyarrow as pa
import pytest

import tests.sae.interpretation.planted_features as planted
from sae.errors import FailureError
from sae.interpretation.index import SILENT, TOO_FEW, RangeIndexer, check_apart, index_texts
from sae.interpretation.records import EXAMPLES_SCHEMA, FEATURES_SCHEMA, GraphConfig
from sae.interpretation.text.passages import Passages

FEATURES = {0: planted.one_token, 1: planted.bigram, 2: planted.noise}


def silent(text):
    return np.empty(0, np.int64), np.empty(0, np.float32)


def no_logits(size):
    return pa.table({name: pa.array([[]] * size, FEATURES_SCHEMA.field(name).type) for name in ("top_logits", "bottom_logits", "further_logits")})


@pytest.fixture(scope="module")
def two_texts():
    return planted.passages("train", 256, seed=0), planted.passages("held_out", 128, seed=1)


@pytest.fixture(scope="module")
def texts(two_texts):
    return index_texts(*two_texts, planted.BUDGET)


@pytest.fixture(scope="module")
def tables(two_texts, texts):
    indexer = RangeIndexer(texts, planted.BUDGET, "planted", planted.TEXTS)
    for feature, activation in (FEATURES | {3: silent}).items():
        indexer.add(feature, *(activation(text) for text in two_texts))
    return indexer.tables(no_logits(4))


@pytest.fixture(scope="module")
def rows(tables):
    return tables[0].to_pylist()


def test_both_tables_have_the_promised_columns(tables):
    features, examples = tables
    assert features.schema.equals(FEATURES_SCHEMA)
    assert examples.schema.equals(EXAMPLES_SCHEMA)
    assert features.column("feature").to_pylist() == [0, 1, 2, 3]


def test_a_token_and_a_pair_are_explained_and_noise_is_not(rows):
    assert rows[0]["score_spearman"] > 0.98
    assert rows[1]["score_spearman"] > 0.98
    assert rows[2]["score_spearman"] == 0
    assert rows[0]["explanation"].startswith("Fires on `<7>`")
    assert rows[1]["explanation"].startswith("Fires on `<12>` after `<11>`")
    assert rows[2]["explanation"].startswith("No token pattern")


def test_the_pair_needs_its_context(two_texts):
    budget = planted.BUDGET.model_copy(update={"graph": GraphConfig(max_context=1)})
    indexer = RangeIndexer(index_texts(*two_texts, budget), budget, "planted", planted.TEXTS)
    indexer.add(0, *(planted.bigram(text) for text in two_texts))
    assert indexer.rows[0]["score_spearman"] < 0.9


def test_figures_of_a_feature_are_those_of_its_firings(rows, two_texts):
    positions, values = planted.one_token(two_texts[0])
    row = rows[0]
    assert row["num_firing"] == len(positions)
    assert row["density"] == len(positions) / (256 * (planted.LENGTH - 1))
    assert row["max_activation"] == values.max()
    assert sum(row["activation_histogram"]["counts"]) == len(positions)
    assert row["activation_histogram"]["edges"][-1] == pytest.approx(values.max())
    assert row["single_token"]
    assert not rows[2]["single_token"]
    assert json.loads(row["patterns"])["patterns"][0]["tokens"] == [planted.TOKEN]


def test_a_silent_feature_is_listed_with_the_reason(rows):
    assert rows[3]["not_scored_reason"] == SILENT
    assert rows[3]["score_spearman"] is None


def test_a_feature_with_too_few_examples_is_not_scored(texts, two_texts):
    indexer = RangeIndexer(texts, planted.BUDGET, "planted", planted.TEXTS)
    explanation, (positions, values) = (planted.one_token(text) for text in two_texts)
    indexer.add(0, explanation, (positions[:19], values[:19]))
    indexer.add(1, explanation, (positions[:20], values[:20]))
    assert indexer.rows[0]["not_scored_reason"] == TOO_FEW
    assert "score_spearman" not in indexer.rows[0]
    assert indexer.rows[1]["score_spearman"] > 0


def test_examples_show_the_text_and_what_happens_there(tables, two_texts):
    length = planted.LENGTH
    dense = {used_for: np.zeros(text.num_tokens, np.float32) for used_for, text in zip(("explanation", "scoring"), two_texts, strict=True)}
    for used_for, text in zip(dense, two_texts, strict=True):
        positions, values = planted.bigram(text)
        dense[used_for][positions] = values
    shown = tables[1].filter(pa.compute.equal(tables[1]["feature"], 1)).to_pylist()
    assert {row["used_for"] for row in shown} == {"explanation", "scoring"}
    for row in shown:
        text = two_texts[row["used_for"] == "scoring"]
        start = row["sequence_id"] // 3 * length + row["position"]
        window = slice(start, start + len(row["tokens"]))
        assert row["tokens"] == text.tokens.reshape(-1)[window].tolist()
        assert row["activations"] == dense[row["used_for"]][window].tolist()
        assert (row["predicted"] is not None) == (row["used_for"] == "scoring")
        assert (row["interval"] >= 0) == (row["activations"][row["peak"]] > 0)


def test_no_sequence_and_no_text_serves_both(tables):
    examples = tables[1]
    scoring = examples.filter(pa.compute.equal(examples["used_for"], "scoring"))
    explanation = examples.filter(pa.compute.equal(examples["used_for"], "explanation"))
    assert set(scoring["split"].to_pylist()) == {"held_out"}
    assert set(explanation["split"].to_pylist()) == {"train"}


def test_scoring_text_that_repeats_the_explanation_text_is_never_chosen(two_texts):
    explanation, scoring = two_texts
    tokens = scoring.tokens.copy()
    tokens[:64] = explanation.tokens[:64]
    texts = index_texts(explanation, Passages("held_out", scoring.sequence_ids, tokens, [0]), planted.BUDGET)
    assert texts.repeated_fraction == 0.5
    indexer = RangeIndexer(texts, planted.BUDGET, "planted", planted.TEXTS)
    indexer.add(0, planted.one_token(explanation), planted.one_token(texts.scoring.passages))
    _, examples = indexer.tables(no_logits(1))
    chosen = examples.filter(pa.compute.equal(examples["used_for"], "scoring"))["sequence_id"].to_pylist()
    assert min(chosen) >= 64 * 3


def test_an_overlap_is_an_error_at_run_time(tables, texts):
    examples = tables[1]
    check_apart(examples, texts.told, planted.BUDGET)
    same_split = examples.set_column(EXAMPLES_SCHEMA.get_field_index("split"), "split", pa.repeat("train", len(examples)))
    with pytest.raises(FailureError, match="serve explaining and scoring"):
        check_apart(same_split, texts.told, planted.BUDGET)
    row = next(row for row in examples.to_pylist() if row["used_for"] == "explanation")
    copied = row | {"used_for": "scoring", "split": "held_out"} | {name: row[name][:9] for name in ("tokens", "activations")}
    with pytest.raises(FailureError, match="word for word"):
        check_apart(pa.Table.from_pylist([copied], schema=EXAMPLES_SCHEMA), texts.told, planted.BUDGET)
