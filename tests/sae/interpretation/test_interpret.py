"""Interpretation as a whole on a tiny subject: every source explained, whoever does the work, and finished sources left alone."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from sae.architectures.config import TopKConfig
from sae.architectures.registry import build_dictionary
from sae.checkpoint import load_dictionary, save_dictionary
from sae.errors import ConfigError, CorruptObjectError, HookpointError, PlanError, WidthError
from sae.execution import PoolOptions
from sae.interpretation import interpret as interpreter
from sae.interpretation.interpret import InterpretationConfig, ReadingWorker, interpret
from sae.interpretation.planning import InterpretationJob, all_sources
from sae.interpretation.records import EXAMPLES_SCHEMA, FEATURES_SCHEMA, Budget, ExampleMix, GraphConfig
from sae.interpretation.sources.controls import ControlsConfig
from sae.interpretation.sources.directory import LOGITS_KEY, firings_key
from sae.interpretation.sources.scratch import get_table
from sae.interpretation.text.passages import passage_ids
from sae.interpretation.text.vocabulary import read_vocabulary
from sae.storage import Place
from sae.store.manifest import StorePlan, finish_store, start_store
from sae.store.reader import Store
from sae.store.writer import write_shard
from sae.subject.model import Subject, SubjectConfig
from services.pool.ray_pool import RayPool

MLP, BEFORE, AFTER = "blocks.0.mlp.hook_post", "blocks.0.hook_resid_mid", "blocks.0.hook_mlp_out"
CONFIG = InterpretationConfig(
    explanation_sequences=300,
    scoring_sequences=40,
    explanation_examples=ExampleMix(top=5, per_interval=1, random=2, out_of_context=3, tokens_before=6, tokens_after=3),
    scoring_examples=ExampleMix(top=6, random=10, out_of_context=20, tokens_before=4, tokens_after=4),
    controls=ControlsConfig(kinds=["random_directions", "pca", "random_dictionary"], num_features=6, fit_vectors=200),
    num_workers=2,
    pool=PoolOptions(num_cpus=0.5),
)
EXAMINED = {"topk": 48, "neurons": 32, "random_directions": 6, "pca": 6, "random_dictionary": 6}


@pytest.fixture(scope="module")
def subject(tiny_subject_directory):
    return Subject.load(SubjectConfig(model=str(tiny_subject_directory)))


def a_store(place, subject, tiny_corpus):
    plan = StorePlan(
        subject=subject.config.model,
        subject_digest=subject.digest,
        corpus_digest=tiny_corpus.manifest.digest,
        context_length=32,
        hookpoints={name: subject.width(name) for name in (MLP, BEFORE, AFTER)},
        num_sequences=8,
        sequences_per_shard=8,
        special_token_ids=sorted(subject.tokenizer.special_token_ids),
    )
    tokens = tiny_corpus.sequences("train", 0, 8)
    start_store(place, plan)
    write_shard(place, plan, 0, tokens, subject.activations(torch.from_numpy(tokens.astype(np.int64)), list(plan.hookpoints)))
    finish_store(place, plan)
    return place.url


@pytest.fixture(scope="module")
def store_url(tmp_path_factory, subject, tiny_corpus):
    return a_store(Place(tmp_path_factory.mktemp("store")), subject, tiny_corpus)


def some_dictionary(place, d_in=32, hookpoint=MLP):
    dictionary = build_dictionary(TopKConfig(d_sae=48, k=4), d_in)
    dictionary.initialize(torch.zeros(d_in), torch.Generator().manual_seed(0))
    save_dictionary(place, dictionary, {"hookpoint": hookpoint})
    return place.url


def a_transcoder(place, subject, hookpoint):
    """From a hookpoint to the MLP's output, with two scales that differ."""
    transcoder = build_dictionary(TopKConfig(d_sae=24, k=4), subject.width(hookpoint), subject.width(AFTER))
    transcoder.input_scale.fill_(2.16)
    transcoder.output_scale.fill_(0.27)
    save_dictionary(place, transcoder, {"hookpoint": hookpoint, "target_hookpoint": AFTER})
    return place.url


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_corpus, store_url, subject):
    """Interpret, with any argument changed."""
    dictionary = some_dictionary(Place(tmp_path_factory.mktemp("dictionary")))

    def interpreted(output_url, config=CONFIG, executor=None, **changes):
        arguments = {"corpus_url": tiny_corpus.place.url, "store_url": store_url, "dictionary_urls": {"topk": dictionary}}
        return interpret(config, subject.config, **(arguments | changes), output_url=str(output_url), executor=executor)

    return interpreted


@pytest.fixture(scope="module")
def finished(run, tmp_path_factory):
    output = tmp_path_factory.mktemp("interpretation")
    return output, run(output)


def objects(output):
    place = Place(output)
    return {key: place.get(key) for key in place.list()}


@pytest.mark.ray
def test_two_workers_of_a_cluster_leave_the_same_bytes(ray_cluster, run, finished, tmp_path):
    output, summaries = finished
    assert run(tmp_path, executor=RayPool()) == summaries
    assert objects(tmp_path) == objects(output)


def test_every_source_leaves_its_records_and_nothing_else(finished, subject):
    output, summaries = finished
    assert list(summaries) == list(EXAMINED)
    assert {key for key in Place(output).list() if "/" not in key} == {"comparison.json", "vocabulary.json"}
    assert list(read_vocabulary(Place(output), subject.tokenizer.digest)) == list(subject.tokenizer.token_texts)
    for source, summary in summaries.items():
        assert Place(output).child(source).list() == ["examples.parquet", "features.parquet", "plan.json", "summary.json"]
        features, examples = (pq.read_table(output / source / f"{name}.parquet") for name in ("features", "examples"))
        assert features.schema.equals(FEATURES_SCHEMA)
        assert examples.schema.equals(EXAMPLES_SCHEMA)
        assert len(features) == summary["num_examined"] == EXAMINED[source]
        assert summary["num_scored"] + sum(summary["not_scored"].values()) == len(features)
        assert summary["explanation_tokens"] > 5000
        assert all(len(row) == 10 for row in features["top_logits"].to_pylist())


def test_what_a_neuron_does_is_what_the_subject_does(finished, subject, tiny_corpus):
    output, _ = finished
    examples = pq.read_table(output / "neurons" / "examples.parquet").to_pylist()
    for row in examples[:: len(examples) // 20]:
        sequence = tiny_corpus.sequences(row["split"], row["sequence_id"], row["sequence_id"] + 1).astype(np.int64)
        neuron = subject.activations(torch.from_numpy(sequence), [MLP])[MLP][0, :, row["feature"]].clamp(min=0)
        window = slice(row["position"], row["position"] + len(row["tokens"]))
        assert row["tokens"] == sequence[0, window].tolist()
        special = np.isin(sequence[0, window], list(subject.tokenizer.special_token_ids))
        np.testing.assert_allclose(row["activations"], np.where(special, 0, neuron[window]), atol=1e-5)


def test_neighbours_fire_together_or_point_the_same_way_and_stand_for_hard_negatives(finished, subject, tiny_corpus):
    output, _ = finished
    features = pq.read_table(output / "pca" / "features.parquet").to_pylist()
    assert all(abs(found["cosine"]) < 1e-4 for row in features for found in row["similar"])  # principal components are orthogonal
    number = tiny_corpus.num_sequences("train")
    tokens = tiny_corpus.sequences("train", 0, number)[passage_ids(number, CONFIG.explanation_sequences)].astype(np.int64)
    special = np.isin(tokens, list(subject.tokenizer.special_token_ids))
    special[:, 0] = True
    fires = (subject.activations(torch.from_numpy(tokens), [MLP])[MLP].numpy() > 0)[~special]
    row = pq.read_table(output / "neurons" / "features.parquet").to_pylist()[3]
    for found in row["co_firing"]:
        assert found["phi"] == pytest.approx(np.corrcoef(fires[:, 3], fires[:, found["feature"]])[0, 1], abs=1e-3)
    hard = [row for row in pq.read_table(output / "neurons" / "examples.parquet").to_pylist() if row["kind"] == "hard_negative"]
    assert {row["used_for"] for row in hard} == {"explanation", "scoring"}
    assert not any(any(row["activations"]) for row in hard)


def test_logit_effects_are_those_of_the_subject(finished, subject):
    output, _ = finished
    row = pq.read_table(output / "neurons" / "features.parquet").to_pylist()[5]
    effects = subject.logit_effects(MLP, torch.eye(32)[5:6])[0]
    assert row["top_logits"][0]["token_id"] == effects.argmax()
    assert row["bottom_logits"][0]["effect"] == pytest.approx(effects.min().item(), rel=1e-5)


@pytest.mark.parametrize("hookpoint", [MLP, BEFORE], ids=["of another width", "of equal width"])
def test_a_transcoder_writes_at_its_target_in_the_target_s_scale(tmp_path, subject, tiny_corpus, store_url, hookpoint):
    url = a_transcoder(Place(tmp_path / "transcoder"), subject, hookpoint)
    _, specs, _ = all_sources(Budget(controls=ControlsConfig(kinds=[])), {"transcoder": url}, Store(Place(store_url)), subject.config)
    job = InterpretationJob(Budget(), subject.config, tiny_corpus.place.url, store_url, hookpoint, str(tmp_path / "out"), tuple(specs))
    ReadingWorker(job).run(("logits", 0))
    found = get_table(job.place("transcoder"), LOGITS_KEY)["top_logits"].to_pylist()
    dictionary = load_dictionary(url)
    expected = subject.logit_effects(AFTER, dictionary.W_dec.detach() / 0.27).topk(2)
    assert [row[0]["token_id"] for row in found] == expected.indices[:, 0].tolist()
    assert [row[0]["effect"] for row in found] == pytest.approx(expected.values[:, 0].tolist(), rel=1e-5)


def without_neighbours(table):
    """Without what depends on which other features are examined."""
    names = [name for name in table.column_names if name not in ("co_firing", "similar", "score_hard")]
    return [row for row in table.select(names).to_pylist() if row.get("kind") != "hard_negative"]


def test_a_sample_of_features_in_small_tasks_finds_what_is_found_of_all(finished, run, tmp_path, monkeypatch):
    output, _ = finished
    monkeypatch.setattr(interpreter, "FEATURES_PER_TASK", 7)
    summaries = run(tmp_path, CONFIG.model_copy(update={"max_features": 20}))
    assert [summary["num_examined"] for summary in summaries.values()] == [20, 20, 6, 6, 6]
    for source in summaries:
        sample = set(pq.read_table(tmp_path / source / "features.parquet")["feature"].to_pylist())
        for name in ("features", "examples"):
            found, expected = (without_neighbours(pq.read_table(root / source / f"{name}.parquet")) for root in (tmp_path, output))
            assert found == [row for row in expected if row["feature"] in sample]


def test_finished_sources_are_left_alone_and_others_gone_on_with(finished, run, tmp_path):
    output, summaries = finished
    for key, data in objects(output).items():
        Place(tmp_path).put(key, data)
    Place(tmp_path).delete("random_directions/summary.json")
    Place(tmp_path).put(f"random_directions/{firings_key('explanation', 0)}", b"firings that were changed")
    written = (tmp_path / "neurons" / "examples.parquet").stat().st_mtime_ns
    assert run(tmp_path) == summaries
    assert objects(tmp_path) == objects(output)
    assert (tmp_path / "neurons" / "examples.parquet").stat().st_mtime_ns == written
    Place(tmp_path).put("neurons/examples.parquet", b"another table")
    with pytest.raises(CorruptObjectError, match="neurons/examples.parquet has the digest .* names"):
        run(tmp_path)


def test_another_plan_is_refused(finished, run):
    output, _ = finished
    before = objects(output)
    with pytest.raises(PlanError, match=r"budget\.graph\.max_patterns \(there 64, now 8\)"):
        run(output, CONFIG.model_copy(update={"graph": GraphConfig(max_patterns=8)}))
    assert objects(output) == before


def test_wrong_inputs_are_named(run, tmp_path):
    with pytest.raises(ConfigError, match="name at least one"):
        run(tmp_path, dictionary_urls={})
    with pytest.raises(ConfigError, match="'neurons', as a control is"):
        run(tmp_path, dictionary_urls={"neurons": "anywhere"})
    with pytest.raises(WidthError, match="d_in 16"):
        run(tmp_path, dictionary_urls={"narrow": some_dictionary(Place(tmp_path / "narrow"), d_in=16)})
    with pytest.raises(HookpointError, match=r"has no 'blocks\.9"):
        run(tmp_path, dictionary_urls={"elsewhere": some_dictionary(Place(tmp_path / "elsewhere"), hookpoint="blocks.9.mlp.hook_post")})


def test_explanations_by_ablation_are_of_what_the_source_does_in_the_model(run, tmp_path, subject):
    changes = {"graph": GraphConfig(learner="ablation"), "controls": ControlsConfig(kinds=[]), "max_features": 4, "explanation_sequences": 60}
    urls = {"topk": some_dictionary(Place(tmp_path / "topk")), "transcoder": a_transcoder(Place(tmp_path / "transcoder"), subject, MLP)}
    summaries = run(tmp_path / "out", CONFIG.model_copy(update=changes), dictionary_urls=urls)
    assert {name: summary["num_examined"] for name, summary in summaries.items()} == {"topk": 4, "transcoder": 4, "neurons": 4}
    rows = pq.read_table(tmp_path / "out" / "neurons" / "features.parquet").to_pylist()
    patterns = [pattern for row in rows if row["patterns"] for pattern in json.loads(row["patterns"])["patterns"]]
    assert patterns
    assert all(pattern["mean"] > 0 for pattern in patterns)
    assert all(len(pattern["texts"]) == len(pattern["tokens"]) for pattern in patterns)


def test_a_dictionary_of_the_weight_shuffled_model_reads_that_model(run, tmp_path, subject, tiny_corpus):
    shuffled = Subject.load(SubjectConfig(model=subject.config.model, shuffle_seed=0))
    control = Place(tmp_path / "control")
    a_store(control.child("store"), shuffled, tiny_corpus)
    some_dictionary(control.child("dictionaries", "topk"))
    training = {"dictionaries": [{"name": "topk"}]}
    control.put_sealed("config.json", {"subject": shuffled.config.model_dump(mode="json"), "store": None, "training": training})
    controls = ControlsConfig(kinds=[], num_features=5, shuffled_run=control.url)
    summaries = run(tmp_path / "out", CONFIG.model_copy(update={"controls": controls, "explanation_sequences": 60}))
    assert [(name, summary["control"], summary["num_examined"]) for name, summary in summaries.items()] == [
        ("topk", False, 48), ("neurons", True, 32), ("shuffled_topk", True, 5),
    ]  # fmt: skip
    number = tiny_corpus.num_sequences("train")
    tokens = tiny_corpus.sequences("train", 0, number)[passage_ids(number, 60)].astype(np.int64)
    special = np.isin(tokens, list(subject.tokenizer.special_token_ids))
    special[:, 0] = True
    dictionary = load_dictionary(control.child("dictionaries", "topk"))
    with torch.no_grad():
        fires = dictionary.encode(shuffled.activations(torch.from_numpy(tokens), [MLP])[MLP][torch.from_numpy(~special)]) > 0
    for row in pq.read_table(tmp_path / "out" / "shuffled_topk" / "features.parquet").to_pylist():
        assert row["density"] == pytest.approx(fires[:, row["feature"]].float().mean().item(), abs=1e-4)
