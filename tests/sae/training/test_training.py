"""One pass over a store trains several dictionaries, and survives being killed."""

import itertools
import json
import math

import pytest
import torch
from safetensors.torch import load
from stores import HOOKPOINT, planted_activations, planted_directions, write_store

from sae.architectures.config import ReluConfig, TopKConfig
from sae.checkpoint import load_dictionary
from sae.errors import ConfigError, DivergenceError, HookpointError, InputError, PlanError, StoppedError, WidthError
from sae.storage import Place
from sae.training.config import DictionaryConfig, TargetL0Config, TrainingConfig
from sae.training.dictionary_run import DictionaryRun, Schedule
from sae.training.engine import train
from sae.training.inputs import geometric_median
from sae.training.optimization import OptimizerConfig
from sae.training.resampling import InputSource, ResamplingConfig

D_IN, D_SAE = 16, 32
TIMES = {"seconds", "step_seconds", "read_seconds", "sync_seconds"}
RELU = DictionaryConfig(
    name="relu",
    sae=ReluConfig(d_sae=D_SAE, l1_coefficient=0.02),
    optimizer=OptimizerConfig(learning_rate=3e-3),
    resampling=ResamplingConfig(num_inputs=256),
)
TOPK = DictionaryConfig(name="topk", sae=TopKConfig(d_sae=D_SAE, k=3, aux_k=4), optimizer=OptimizerConfig(learning_rate=3e-3), seed=1)
SMALL = TrainingConfig(dictionaries=[RELU, TOPK], batch_size=128, log_every=7, checkpoint_seconds=0, dead_window_vectors=640)
NUM_STEPS = 32


class KilledError(Exception):
    pass


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Matrices this small gain nothing from a second thread, and lose much on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """4,096 vectors of 24 planted features in 16 dimensions: 32 batches of 128."""
    return write_store(Place(tmp_path_factory.mktemp("store")), planted_activations(4096, planted_directions(24, D_IN)))


@pytest.fixture
def output(request):
    """A place in memory: these tests save a state after every step, and a disk would take most of their time."""
    return Place(f"memory://training/{request.node.name}")


@pytest.fixture(scope="module")
def undisturbed(store):
    """What one uninterrupted run leaves."""
    output = Place("memory://training/undisturbed")
    train(store, HOOKPOINT, SMALL, output)
    return output


def weights(output, name):
    return load(output.get(f"{name}/weights.safetensors"))


def same_bits(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def lines(output, name, key="training.jsonl"):
    rows = [json.loads(line) for line in output.get(f"{name}/{key}").decode().splitlines()]
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def kill_after(steps):
    def progress(done, total):
        if done == steps * SMALL.batch_size:
            raise KilledError

    return progress


def changed(dictionary, **changes):
    return TrainingConfig(**{**SMALL.model_dump(), "dictionaries": [dictionary.model_copy(update=changes)]})


def test_each_dictionary_is_left_with_weights_logs_and_result(undisturbed):
    for name in ("relu", "topk"):
        files = {key for key in undisturbed.list(name)}
        assert files == {
            f"{name}/{key}" for key in ("plan.json", "config.json", "weights.safetensors", "training.jsonl", "events.jsonl", "result.json")
        }
    assert undisturbed.list("state") == []


def test_the_result_says_what_was_trained(undisturbed, store):
    result = undisturbed.get_json("topk/result.json")
    assert (result["name"], result["architecture"], result["d_in"], result["d_sae"]) == ("topk", "topk", D_IN, D_SAE)
    assert (result["steps"], result["vectors"], result["dead_window_vectors"], result["seed"]) == (NUM_STEPS, NUM_STEPS * 128, 640, 1)
    assert result["store_digest"] == store.manifest.digest
    assert result["final"]["step"] == NUM_STEPS
    assert 0 <= result["dead_fraction"] <= 1
    assert result["versions"]["torch"] == torch.__version__


def test_the_log_has_a_row_every_few_steps_and_one_at_the_end(undisturbed):
    rows = lines(undisturbed, "topk")
    assert [row["step"] for row in rows] == [7, 14, 21, 28, 32]
    assert [row["vectors"] for row in rows] == [step * 128 for step in (7, 14, 21, 28, 32)]
    assert [row["window_vectors"] for row in rows] == [7 * 128] * 4 + [4 * 128]
    for row in rows:
        assert row["losses"]["total"] == pytest.approx(sum(loss for term, loss in row["losses"].items() if term != "total"), rel=1e-5)
        assert 0 < row["l0"] <= 3
        assert list(row["density_quantiles"]) == ["0.05", "0.25", "0.5", "0.75", "0.95"]
    assert rows[-1]["fvu"] < rows[0]["fvu"]


def test_the_input_is_scaled_to_the_root_of_its_width_and_the_bias_starts_at_the_geometric_median(store, output):
    """With a rate of almost 0 the weights stay where they began."""
    still = OptimizerConfig(learning_rate=1e-30)
    train(store, HOOKPOINT, changed(TOPK, optimizer=still), output)
    dictionary = load_dictionary(output.child("topk"))
    vectors = torch.cat([torch.from_numpy(store.rows(HOOKPOINT, shard, 0, 1024).copy()) for shard in range(4)])
    scaled = vectors * dictionary.input_scale
    assert scaled.norm(dim=1).mean().item() == pytest.approx(math.sqrt(D_IN), rel=1e-5)
    assert torch.allclose(dictionary.b_dec, geometric_median(scaled), atol=1e-4)


@pytest.mark.parametrize("name", ["relu", "topk"])
def test_a_dictionary_is_the_same_alone_and_in_company(store, undisturbed, output, name):
    train(store, HOOKPOINT, changed({"relu": RELU, "topk": TOPK}[name]), output)
    assert same_bits(weights(output, name), weights(undisturbed, name))
    assert lines(output, name) == lines(undisturbed, name)


@pytest.mark.parametrize("steps", [1, 6, 7, 16, 31, 32])
def test_killed_and_run_again_it_ends_with_the_same_bits(store, undisturbed, output, steps):
    """Step 7 writes a log row; steps 3, 6, 10 and 13 resample; 32 is the last."""
    with pytest.raises(KilledError):
        train(store, HOOKPOINT, SMALL, output, progress=kill_after(steps))
    train(store, HOOKPOINT, SMALL, output)
    for name in ("relu", "topk"):
        assert same_bits(weights(output, name), weights(undisturbed, name))
        assert lines(output, name) == lines(undisturbed, name)
        assert lines(output, name, "events.jsonl") == lines(undisturbed, name, "events.jsonl")


@pytest.mark.parametrize("steps", [1, 7, 31])
def test_told_to_stop_it_saves_this_very_step_and_continues_there(store, undisturbed, output, steps):
    """Whenever the last state was saved; one that is told after the last step ends as if it had not been."""
    seldom, asked = SMALL.model_copy(update={"checkpoint_seconds": 3600.0}), itertools.count(1)
    with pytest.raises(StoppedError, match=f"after step {steps} of 32"):
        train(store, HOOKPOINT, seldom, output, should_stop=lambda: next(asked) == steps)
    assert {int(key.split("step-")[1][:10]) for key in output.list("state") if "step-" in key} == {steps}
    done = []
    train(store, HOOKPOINT, seldom, output, progress=lambda vectors, total: done.append(vectors))
    assert len(done) == 32 - steps
    for name in ("relu", "topk"):
        assert same_bits(weights(output, name), weights(undisturbed, name))
        assert lines(output, name) == lines(undisturbed, name)


def test_a_stop_while_it_waits_for_activations_saves_the_last_step(store, undisturbed, output, monkeypatch):
    """As an overlapped training does, whose harvest is interrupted."""
    whole = store.wait

    def stopped_at_the_last_shard(hookpoint, shards, ended):
        if store.plan.num_shards - 1 in shards and any("step-" in key for key in output.list("state")):
            raise StoppedError("training was stopped while it waited")
        return whole(hookpoint, shards, ended)

    monkeypatch.setattr(store, "wait", stopped_at_the_last_shard)
    with pytest.raises(StoppedError, match="while it waited"):
        train(store, HOOKPOINT, SMALL, output)
    monkeypatch.undo()
    train(store, HOOKPOINT, SMALL, output)
    assert same_bits(weights(output, "relu"), weights(undisturbed, "relu"))


def test_a_search_is_stopped_in_its_pilots(store, output):
    searched = changed(RELU.model_copy(update={"target_l0": TargetL0Config(l0=4.0)}))
    asked = itertools.count(1)
    with pytest.raises(StoppedError):
        train(store, HOOKPOINT, searched, output, should_stop=lambda: next(asked) == 3)
    assert any("search" in key for key in output.list())


def test_with_the_last_state_cut_short_the_one_before_serves(store, undisturbed, output):
    with pytest.raises(KilledError):
        train(store, HOOKPOINT, SMALL, output, progress=kill_after(9))
    newest = output.list("state/relu")[-1]
    output.put(newest, output.get(newest)[:1000])
    train(store, HOOKPOINT, SMALL, output)
    assert same_bits(weights(output, "relu"), weights(undisturbed, "relu"))
    assert same_bits(weights(output, "topk"), weights(undisturbed, "topk"))


def test_what_is_finished_is_not_trained_again(store, output):
    steps = []
    first = train(store, HOOKPOINT, changed(TOPK), output)
    assert train(store, HOOKPOINT, changed(TOPK), output, progress=lambda done, total: steps.append(done)) == first
    assert steps == []


def test_a_dictionary_may_be_added_to_a_finished_pass(store, undisturbed, output):
    train(store, HOOKPOINT, changed(TOPK), output)
    train(store, HOOKPOINT, SMALL, output)
    assert same_bits(weights(output, "relu"), weights(undisturbed, "relu"))


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (changed(RELU, sae=ReluConfig(d_sae=D_SAE, l1_coefficient=0.03)), "dictionary.sae.l1_coefficient = 0.02"),
        (changed(RELU, optimizer=OptimizerConfig(learning_rate=0.5)), "dictionary.optimizer.learning_rate"),
        (SMALL.model_copy(update={"batch_size": 64}), "batch_size = 128, expected 64"),
    ],
)
def test_another_configuration_in_the_same_output_is_refused(store, undisturbed, config, field):
    with pytest.raises(PlanError, match=field):
        train(store, HOOKPOINT, config, undisturbed)


def test_how_often_a_state_is_saved_is_no_other_configuration(store, undisturbed):
    train(store, HOOKPOINT, SMALL.model_copy(update={"checkpoint_seconds": 60.0}), undisturbed)


def test_resampling_is_logged_with_its_outcome(undisturbed):
    """The wide dead window of a short run: features that no planted direction needs fall silent and are resampled."""
    events = lines(undisturbed, "relu", "events.jsonl")
    resampled = [event for event in events if event["event"] == "resampled"]
    assert [event["step"] for event in resampled] == [3, 6, 10, 13]
    for event in events:
        assert event["vectors"] == event["step"] * 128
        assert 0 <= event["resampled"] <= D_SAE
        if event["event"] == "after_resampling":
            assert 0 <= event["alive"] <= event["resampled"]


def test_divergence_names_dictionary_step_and_term_and_keeps_the_last_state(store, output):
    wild = changed(TOPK, optimizer=OptimizerConfig(decay_fraction=0).model_copy(update={"learning_rate": 1e30}))
    with pytest.raises(DivergenceError, match=r"dictionary 'topk' diverged at step \d+: .* is (nan|inf)"):
        train(store, HOOKPOINT, wild, output)
    assert not output.exists("topk/config.json")
    for key in output.list("state"):
        assert all(torch.isfinite(tensor).all() for name, tensor in load(output.get(key)).items() if name.startswith("weights"))


@pytest.mark.parametrize("log_every", [1000, 20, 7])
def test_training_that_ends_diverged_fails_however_seldom_it_logs(store, output, log_every):
    wild = changed(TOPK, optimizer=OptimizerConfig(decay_fraction=0).model_copy(update={"learning_rate": 1e3}))
    with pytest.raises(DivergenceError, match=r"dictionary 'topk' diverged at step \d+"):
        train(store, HOOKPOINT, wild.model_copy(update={"log_every": log_every}), output)
    assert not output.exists("topk/config.json")
    assert not output.exists("topk/result.json")


def test_the_l1_penalty_can_be_warmed_up(store, output):
    """The first step, from equal weights, is priced at 1/16 where the penalty rises over half of 32 steps."""
    config = changed(RELU).model_copy(update={"log_every": 1, "checkpoint_seconds": 60.0})
    warm = config.model_copy(update={"dictionaries": [RELU.model_copy(update={"sparsity_warm_up_fraction": 0.5})]})
    train(store, HOOKPOINT, config, output.child("cold"))
    train(store, HOOKPOINT, warm, output.child("warm"))
    cold_rows, warm_rows = lines(output.child("cold"), "relu"), lines(output.child("warm"), "relu")
    assert warm_rows[0]["losses"]["sparsity"] == pytest.approx(cold_rows[0]["losses"]["sparsity"] / 16, rel=1e-5)
    assert warm_rows[0]["losses"]["reconstruction"] == cold_rows[0]["losses"]["reconstruction"]


def test_a_store_smaller_than_a_batch_is_refused(store, output):
    with pytest.raises(InputError, match=r"4,096 rows .* fewer than one batch of 8,192"):
        train(store, HOOKPOINT, SMALL.model_copy(update={"batch_size": 8192}), output)


def test_an_unknown_hookpoint_is_refused(store, output):
    with pytest.raises(HookpointError):
        train(store, "blocks.9.mlp.hook_post", SMALL, output)


def test_two_dictionaries_of_one_name_are_refused():
    with pytest.raises(ConfigError, match="its own name"):
        TrainingConfig.parse({"dictionaries": [TOPK.model_dump(), TOPK.model_dump()]})


def test_every_log_row_and_event_is_recorded_as_it_comes(store, undisturbed, output):
    seen = {"relu": [], "topk": []}
    train(store, HOOKPOINT, SMALL, output, record=lambda name, row: seen[name].append(row))
    assert [row["step"] for row in seen["topk"]] == [7, 14, 21, 28, 32]
    assert len(seen["relu"]) == len(lines(undisturbed, "relu")) + len(lines(undisturbed, "relu", "events.jsonl"))


def test_a_batch_of_another_width_is_refused(undisturbed):
    dictionary = load_dictionary(undisturbed.child("topk"))
    schedule = Schedule(num_steps=10, batch_size=4, log_every=1, dead_window_vectors=10)
    run = DictionaryRun(
        TOPK, dictionary, schedule, InputSource(lambda number: (torch.zeros(4, D_IN), None), 4), torch.zeros(D_IN), lambda name, row: None
    )
    with pytest.raises(WidthError, match="d_in 16, the store has 5"):
        run.train_on(torch.zeros(4, 5))


def test_planted_features_are_found(tmp_path):
    directions = planted_directions(24, D_IN, seed=5)
    store = write_store(Place(tmp_path / "store"), planted_activations(32 * 1024, directions, mean_active=1.5))
    sae = TopKConfig(d_sae=48, k=3, aux_k=8)
    config = TrainingConfig(
        dictionaries=[DictionaryConfig(name="topk", sae=sae, optimizer=OptimizerConfig(learning_rate=3e-3))], batch_size=128, dead_window_vectors=4096
    )
    train(store, HOOKPOINT, config, Place(tmp_path / "dictionaries"))
    found = load_dictionary(tmp_path / "dictionaries" / "topk").W_dec.detach()
    best = (directions @ (found / found.norm(dim=1, keepdim=True)).T).max(dim=1).values
    assert best.mean() > 0.9
