"""Controls find what their method finds, fire where they should, and the table says which differences are noise."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scipy.optimize import nnls

from sae.architectures.config import TopKConfig
from sae.architectures.registry import build_dictionary
from sae.checkpoint import save_dictionary
from sae.errors import ConfigError
from sae.interpretation.comparison import bootstrap_medians, comparison_table, write_comparison
from sae.interpretation.planning import control_sources, shuffled_sources
from sae.interpretation.records import Budget
from sae.interpretation.sources.controls import FIT_KEY, RandomDictionarySource, fit_control, fitted_source, random_directions, spread_rows
from sae.interpretation.sources.sources import SourceSpec, examined_features
from sae.storage import Place
from sae.store.manifest import StorePlan, finish_store, start_store
from sae.store.reader import Store
from sae.store.writer import write_shard
from sae.subject.model import SubjectConfig, shuffle_weights

HOOKPOINT, D_IN, PARTS = "blocks.0.mlp.hook_post", 6, 3


@pytest.fixture(scope="module")
def parts():
    """Three sparse, skewed sources, each of which writes two coordinates of its own."""
    return np.kron(np.eye(PARTS), [[0.6, 0.8]]).astype(np.float32)


@pytest.fixture(scope="module")
def store(tmp_path_factory, parts):
    """Two shards of `sources @ parts`, none below 0."""
    place, rng = Place(tmp_path_factory.mktemp("store")), np.random.default_rng(0)
    plan = StorePlan(
        subject="s", subject_digest="d", corpus_digest="c", context_length=64, hookpoints={HOOKPOINT: D_IN}, num_sequences=32, sequences_per_shard=16,
        dtype="float32", special_token_ids=[0],
    )  # fmt: skip
    start_store(place, plan)
    for shard in range(2):
        sources = rng.exponential(size=(16, 64, PARTS)) * (rng.random((16, 64, PARTS)) < 0.2) * [1, 2, 3]
        activations = {HOOKPOINT: torch.from_numpy((sources @ parts).astype(np.float32))}
        write_shard(place, plan, shard, np.ones((16, 64), np.uint32), activations)
    finish_store(place, plan)
    return Store(place)


@pytest.fixture
def x(store):
    return torch.from_numpy(spread_rows(store, HOOKPOINT, 1000))


def fitted(kind, store, place, num_features=PARTS):
    fit_control(kind, store, HOOKPOINT, num_features, 2000, 0, place)
    return fitted_source(kind, place)


def test_rows_are_spread_over_all_shards(store):
    rows = spread_rows(store, HOOKPOINT, 10)
    assert rows.shape == (10, D_IN)
    first, second = (store.open(HOOKPOINT, [shard])[0].pieces(0, 5)[0].numpy() for shard in range(2))
    np.testing.assert_array_equal(rows, np.concatenate([first, second]))


def test_principal_components_are_the_eigenvectors_of_the_covariance_turned_to_their_longer_tail(store, x, tmp_path):
    source = fitted("pca", store, Place(tmp_path))
    whole = spread_rows(store, HOOKPOINT, 2000).astype(np.float64)
    centred = whole - whole.mean(0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    expected = centred @ vectors[:, ::-1][:, :PARTS]
    expected = (x.numpy() - whole.mean(0)) @ (vectors[:, ::-1][:, :PARTS] * np.sign((expected**3).sum(0)))
    np.testing.assert_allclose(source.firings(x).toarray(), np.maximum(expected, 0), atol=1e-4)


def test_independent_components_are_the_sources(store, x, parts, tmp_path):
    source = fitted("ica", store, Place(tmp_path))
    true, found = x.numpy() @ np.linalg.pinv(parts), source.firings(x).toarray()
    matches = np.abs(np.corrcoef(true.T, found.T)[:PARTS, PARTS:])
    assert (matches.max(1) > 0.95).all()
    written = torch.nn.functional.normalize(source.directions(0, PARTS)).numpy()
    np.testing.assert_allclose(np.abs(written @ parts.T).max(0), 1, atol=0.02)


def test_non_negative_parts_code_as_non_negative_least_squares_do(store, x, tmp_path):
    source = fitted("nmf", store, Place(tmp_path))
    found = source.firings(x[:20]).toarray()
    expected = np.stack([nnls(source.directions(0, PARTS).numpy().T.astype(np.float64), row.astype(np.float64))[0] for row in x[:20].numpy()])
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_a_fit_depends_on_store_and_seed_alone(store, tmp_path):
    for kind in ("pca", "ica", "nmf"):
        places = [Place(tmp_path / f"{kind}{turn}") for turn in range(2)]
        for place in places:
            fitted(kind, store, place)
        assert places[0].get(FIT_KEY) == places[1].get(FIT_KEY)


def test_random_directions_are_unit_vectors_around_the_mean(x):
    source = random_directions(x.mean(0), 6, seed=1)
    directions = source.directions(0, 6)
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(6))
    np.testing.assert_allclose(source.firings(x).toarray(), ((x - x.mean(0)) @ directions.T).clamp(min=0).numpy(), atol=1e-6)
    assert torch.equal(random_directions(x.mean(0), 6, seed=1).directions(0, 6), directions)
    assert not torch.equal(random_directions(x.mean(0), 6, seed=2).directions(0, 6), directions)


def test_a_random_dictionary_keeps_the_k_largest_of_its_random_directions(x):
    source = RandomDictionarySource(x.mean(0), 20, 2, seed=0)
    projections = ((x - x.mean(0)) @ source.directions(0, 20).T).clamp(min=0).numpy()
    threshold = np.sort(projections, axis=1)[:, -2:-1]
    np.testing.assert_allclose(source.firings(x).toarray(), np.where(projections >= threshold, projections, 0), atol=1e-5)


def test_controls_are_as_many_and_as_wide_as_the_budget_says(tmp_path):
    dictionary = save_dictionary(Place(tmp_path), build_dictionary(TopKConfig(d_sae=4096, k=20), 8), {})
    budget = Budget.parse({"controls": {"kinds": ["random_directions", "pca", "random_dictionary"], "num_features": 10}})
    specs = {spec.name: spec for spec in control_sources(budget, 8, dictionary)}
    assert {name: len(examined_features(spec, None, 0)) for name, spec in specs.items()} == {
        "neurons": 8, "random_directions": 10, "pca": 8, "random_dictionary": 10,
    }  # fmt: skip
    assert (specs["random_dictionary"].num_features, specs["random_dictionary"].k) == (4096, 20)
    assert all(spec.is_control for spec in specs.values())
    assert not SourceSpec(name="a", kind="dictionary", num_features=3).is_control


def test_a_control_run_of_the_unshuffled_model_is_refused(tmp_path, store):
    Place(tmp_path).put_sealed("config.json", {"subject": {"model": "embedded"}, "store": None, "training": {"dictionaries": []}})
    budget = Budget.parse({"controls": {"shuffled_run": str(tmp_path)}})
    with pytest.raises(ConfigError, match="expected this run's subject with a shuffle_seed"):
        shuffled_sources(budget, HOOKPOINT, store, SubjectConfig())


def test_shuffling_moves_the_entries_of_each_matrix_and_nothing_else():
    model = torch.nn.Sequential(torch.nn.Linear(40, 30), torch.nn.Linear(30, 20))
    before = {name: value.clone() for name, value in model.named_parameters()}
    shuffle_weights(model, seed=0)
    for name, value in model.named_parameters():
        assert torch.equal(value.flatten().sort().values, before[name].flatten().sort().values)
        assert torch.equal(value, before[name]) == (value.ndim == 1)


def scored(output, name, draws, single):
    rows = {"score_draws": [list(each) for each in draws] + [None], "single_token": [*single, False]}
    table = pa.table({"score_draws": pa.array(rows["score_draws"], pa.list_(pa.float64())), "single_token": rows["single_token"]})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    output.child(name).put("features.parquet", sink.getvalue())


def test_the_comparison_tells_a_difference_from_noise_for_each_part(tmp_path):
    rng, output = np.random.default_rng(0), Place(tmp_path)
    single = np.arange(300) % 3 == 0
    high = 0.6 + 0.1 * rng.standard_normal((300, 3))
    scored(output, "topk", high, single)
    scored(output, "pca", np.where(single[:, None], high[::-1], high - 0.2), single)
    scored(output, "nmf", high[:0], [])
    rows = write_comparison(output, {"topk": True, "pca": False, "nmf": False}, seed=0)
    assert rows == output.get_json("comparison.json")["rows"]
    found = {(row["source"], row["features"]): row for row in rows}
    assert found["pca", "single_token"]["within_noise"]
    assert not found["pca", "multiple_tokens"]["within_noise"]
    low, high_end = found["pca", "multiple_tokens"]["interval"]
    assert low < 0.2 < high_end
    assert found["pca", "multiple_tokens"]["num"] == [200, 200]
    assert found["nmf", "all"]["within_noise"] is None
    assert {row["dictionary"] for row in rows} == {"topk"}
    lines = comparison_table(rows, "blocks.0.mlp.hook_post")
    assert any("single-token ones: within noise of pca" in line for line in lines)
    assert max(len(line) for line in comparison_table(5 * rows, "blocks.0.mlp.hook_post")) <= 121
    told, whole = " ".join(" ".join(comparison_table(5 * rows, "blocks.0.mlp.hook_post")).split()), " ".join(lines).count("within noise of pca")
    assert told.count("within noise of pca") == 5 * whole, "no clause is cut or lost"
    assert not any("nmf" in line for line in lines)


def test_two_dictionaries_are_compared_once(tmp_path):
    output = Place(tmp_path)
    for name in ("topk", "relu"):
        scored(output, name, np.full((5, 3), 0.5), np.zeros(5, bool))
    rows = write_comparison(output, {"topk": True, "relu": True}, seed=0)
    assert [(row["dictionary"], row["source"]) for row in rows if row["features"] == "all"] == [("topk", "relu")]


def test_noise_of_the_draws_widens_the_interval():
    steady, shaky = np.full((200, 1), 0.5), 0.5 + 0.1 * np.random.default_rng(0).standard_normal((200, 3))
    assert np.ptp(bootstrap_medians(steady, 0)) == 0
    widths = [np.std(bootstrap_medians(draws, 0)) for draws in (shaky.mean(1, keepdims=True), shaky)]
    assert 0 < widths[0] < widths[1]
