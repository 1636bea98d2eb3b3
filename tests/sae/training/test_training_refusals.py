"""What stops a training run, and what it says: bad vectors, runs beyond hope, states of other plans, too small a GPU."""

import math

import pytest
import torch
from safetensors.torch import load
from stores import HOOKPOINT, planted_activations, planted_directions, write_store

from sae.architectures.relu import ReluDictionary
from sae.batches.loader import Batches
from sae.errors import ConfigError, DivergenceError, InputError, PlanError
from sae.storage import Place
from sae.store.reader import Store
from sae.training.config import TrainingConfig
from sae.training.engine import train
from sae.training.log import diverging

D_IN = 16


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def config(*dictionaries, **changes):
    small = {"batch_size": 64, "log_every": 4, "checkpoint_seconds": 0, "dead_window_vectors": 640}
    return TrainingConfig.parse({"dictionaries": list(dictionaries), **small, **changes})


def relu(name="relu", **changes):
    return {"name": name, "sae": {"architecture": "relu", "d_sae": 32}, **changes}


@pytest.fixture(scope="module")
def vectors():
    return planted_activations(18_432, planted_directions(24, D_IN))


@pytest.fixture(scope="module")
def store(tmp_path_factory, vectors):
    return write_store(Place(tmp_path_factory.mktemp("store")), vectors)


@pytest.fixture
def output(request):
    return Place(f"memory://refusals/{request.node.name}")


class SpoiltStore(Store):
    """A store in which one activation is not a number: the writer would have refused it, so it is spoilt on its way out."""

    def __init__(self, place, shard, row, value):
        super().__init__(place)
        self.shard, self.row, self.value = shard, row, value

    def open(self, hookpoint, shards):
        opened = super().open(hookpoint, shards)
        return [Spoilt(rows, self.row, self.value) if shard == self.shard else rows for shard, rows in zip(shards, opened, strict=True)]


class Spoilt:
    def __init__(self, rows, row, value):
        self.rows, self.row, self.value = rows, row, value

    def pieces(self, start, stop):
        pieces = []
        for piece in self.rows.pieces(start, stop):
            if start <= self.row < start + len(piece):
                piece = piece.clone()
                piece[self.row - start, 3] = self.value
            pieces.append(piece)
            start += len(piece)
        return pieces


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_or_infinity_stops_with_shard_and_row_named_and_the_last_state_stays(store, output, value):
    """It lies after the first 16,384 vectors, so that training has begun."""
    shard, row = Batches(store, HOOKPOINT, 64).origin(280, 10)
    with pytest.raises(InputError, match=rf"batch 280: shard {shard} of {HOOKPOINT} holds NaN or infinity in row {row}\."):
        train(SpoiltStore(store.place, shard, row, value), HOOKPOINT, config(relu()), output)
    newest = output.list("state/relu")[-1]
    assert newest.startswith("state/relu/step-0000000280")
    assert all(torch.isfinite(tensor).all() for tensor in load(output.get(newest)).values())


def test_nan_among_the_first_vectors_is_found_before_training(store, output):
    shard, row = Batches(store, HOOKPOINT, 64).origin(3, 0)
    with pytest.raises(InputError, match=rf"batch 3: shard {shard} .* NaN or infinity in row {row}"):
        train(SpoiltStore(store.place, shard, row, math.nan), HOOKPOINT, config(relu()), output)
    assert output.list("state") == []


def test_one_that_diverges_is_said_and_the_others_are_finished(store, output):
    both = config(relu("wild", optimizer={"decay_fraction": 0}), relu())
    wild = both.dictionaries[0].optimizer.model_copy(update={"learning_rate": 1e30})  # beyond what a configuration may ask for
    both = both.model_copy(update={"dictionaries": [both.dictionaries[0].model_copy(update={"optimizer": wild}), both.dictionaries[1]]})
    with pytest.raises(DivergenceError, match="dictionary 'wild' diverged"):
        train(store, HOOKPOINT, both, output)
    assert output.exists("relu/result.json")
    assert not output.exists("wild/result.json")


def rows(*fvus):
    return [{"fvu": fvu} for fvu in fvus]


@pytest.mark.parametrize(
    ("fvus", "hopeless"),
    [
        ((0.9, 0.5, 0.3, 0.2, 0.2), False),
        ((0.9, 0.5, 40.0, 0.3, 0.2, 0.1), False),  # a leap after resampling
        ((0.9, 11.0, 40.0, 50.0, 60.0), False),  # not yet for long
        ((0.9, 11.0, 40.0, 60.0, 20.0, 30.0), True),
        ((30.0, 20.0, 25.0, 28.0, 28.0, 29.0), False),  # bad from the start, and no worse
        ((30.0, 400.0, 500.0, 600.0, 600.0, 700.0), True),
        ((None, None, None, None, None), False),  # no variance to explain
    ],
)
def test_a_run_is_hopeless_when_its_reconstruction_stays_ten_times_worse_than_none(fvus, hopeless):
    assert diverging(rows(*fvus), fvus[0] or 0.0) is hopeless


def test_a_run_whose_weights_run_away_is_stopped_long_before_they_overflow(store, output):
    with pytest.raises(DivergenceError, match=r"step \d+: its FVU has been above 10 times that of its first step for 5 log rows"):
        train(store, HOOKPOINT, config(relu(optimizer={"learning_rate": 30.0, "decay_fraction": 0})), output)


def test_a_state_of_another_plan_is_refused_even_where_its_plan_is_gone(store, output):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(store, HOOKPOINT, config(relu()), output, progress=stop)
    with pytest.raises(KeyboardInterrupt):  # a state is saved after the first step's progress, so this run leaves one
        train(store, HOOKPOINT, config(relu()), output, progress=lambda done, total: stop(done, total) if done > 64 else None)
    output.delete("relu/plan.json")
    with pytest.raises(PlanError, match=r"dictionary\.optimizer\.learning_rate = 0\.001, expected 0\.002"):
        train(store, HOOKPOINT, config(relu(optimizer={"learning_rate": 2e-3})), output)


def test_as_many_states_are_kept_as_the_configuration_says(store, output):
    def stop(done, total):
        if done == 64 * 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(store, HOOKPOINT, config(relu(), checkpoints_kept=4), output, progress=stop)
    assert [int(key.split("-")[1]) for key in output.list("state/relu")] == [2, 3, 4, 5]


def test_a_gpu_that_is_too_small_is_said_with_the_settings_to_lower(store, output, monkeypatch):
    def too_small(*arguments, **named):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(ReluDictionary, "training_pass", too_small)
    with pytest.raises(ConfigError, match=r"batches of 64 vectors and 1 dictionaries .*lower training\.batch_size.*sae\.d_sae"):
        train(store, HOOKPOINT, config(relu()), output)


def test_the_average_of_weights_is_what_is_saved(store, output):
    """A decay near 0 gives the last weights; near 1, others, at unit norm all the same."""
    train(store, HOOKPOINT, config(relu("last"), relu("short", ema_decay=1e-9), relu("long", ema_decay=0.99), checkpoint_seconds=60), output)
    last, short, long = (load(output.get(f"{name}/weights.safetensors")) for name in ("last", "short", "long"))
    for name, tensor in last.items():
        torch.testing.assert_close(short[name], tensor, rtol=1e-5, atol=1e-6)
    assert (long["W_enc"] - last["W_enc"]).abs().max() > 1e-3
    torch.testing.assert_close(long["W_dec"].norm(dim=1), torch.ones(32))
