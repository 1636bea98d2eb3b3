"""A dictionary is trained on vectors at hand, an array or whatever yields tensors, and finds the directions that they were made of."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

import sae
from sae.errors import ConfigError, InputError, WidthError
from sae.training.config import DictionaryConfig
from sae.training.optimization import OptimizerConfig
from sae.training.resampling import ResamplingConfig

D_IN, DIRECTIONS = 32, 24


def planted(count, seed=0):
    """Sums of few of 24 directions, and the directions."""
    generator = torch.Generator().manual_seed(seed)
    directions = normalize(torch.randn(DIRECTIONS, D_IN, generator=torch.Generator().manual_seed(7)))
    fires = torch.rand(count, DIRECTIONS, generator=generator) < 0.06
    return (fires * (0.5 + torch.rand(count, DIRECTIONS, generator=generator))) @ directions, directions


def fast(**changes):
    usual = {"name": "fast", "sae": sae.TopK(d_sae=2 * DIRECTIONS, k=2), "optimizer": OptimizerConfig(learning_rate=3e-3)}
    return DictionaryConfig(**usual | changes)


def recovered(dictionary, directions):
    """Share of the directions that a feature has nearly to itself."""
    return ((normalize(dictionary.W_dec) @ directions.T).max(dim=0).values > 0.95).double().mean().item()


def test_the_directions_that_vectors_were_made_of_are_found():
    vectors, directions = planted(40_000)
    dictionary, barely_trained = (sae.train(each, fast(), batch_size=200) for each in (vectors, vectors[:400]))
    assert recovered(dictionary, directions) > 0.9
    assert recovered(barely_trained, directions) < 0.2
    held_out, _ = planted(5000, seed=1)
    measured = sae.measure(dictionary, held_out)
    assert measured.l0 == 2
    assert measured.fvu < 0.2 < sae.measure(barely_trained, held_out).fvu


def test_an_array_a_tensor_and_a_file_give_the_same_dictionary(tmp_path):
    vectors, _ = planted(6000)
    np.save(tmp_path / "vectors.npy", vectors.numpy())
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    first, second, third = (sae.train(each, fast(), batch_size=500, seed=3) for each in (vectors, vectors.numpy(), mapped))
    assert torch.equal(first.W_dec, second.W_dec)
    assert torch.equal(first.W_dec, third.W_dec)
    other = sae.train(vectors, fast(), batch_size=500, seed=4)
    assert not torch.equal(first.W_dec, other.W_dec), "another order of the vectors"


def test_an_iterable_is_taken_as_it_comes_whatever_the_lengths_of_its_tensors():
    vectors, _ = planted(4200)
    parts = torch.split(vectors, [1, 999, 1600, 1600])
    whole = sae.train(list(torch.split(vectors, 500)), fast(), batch_size=500)
    assert torch.equal(sae.train(parts, fast(), batch_size=500).W_dec, whole.W_dec)
    assert torch.equal(sae.train(iter(parts), fast(), num_vectors=4200, batch_size=500).W_dec, whole.W_dec)


def test_epochs_read_the_array_again_in_another_order():
    vectors, _ = planted(2000)
    rows = []
    sae.train(vectors, fast(), batch_size=100, epochs=3, record=rows.append)
    assert [row["step"] for row in rows] == [20, 40, 60]
    assert rows[-1]["fvu"] < rows[0]["fvu"]
    assert {"l0", "dead_fraction", "losses"} <= rows[0].keys()


def test_dead_features_of_an_array_can_be_resampled():
    vectors, _ = planted(20_000)
    events = []
    config = fast(sae=sae.ReLU(d_sae=64, l1_coefficient=0.02), resampling=ResamplingConfig())
    sae.train(vectors, config, batch_size=200, record=lambda row: events.append(row) if "event" in row else None)
    assert "resampled" in {event["event"] for event in events}


@pytest.mark.parametrize(
    ("vectors", "options", "error", "message"),
    [
        (torch.ones(3, 4, 5), {}, WidthError, r"\[3, 4, 5\] was given"),
        (torch.ones(99, 4), {"batch_size": 100}, InputError, "99 vectors are less than one batch of 100"),
        (torch.zeros(200, 4), {"batch_size": 100}, InputError, "all zero"),
        (torch.full((200, 4), torch.nan), {"batch_size": 100}, InputError, "NaN or infinity"),
        ((torch.ones(1, 4) for _ in range(3)), {"batch_size": 2}, ConfigError, "give num_vectors"),
        (iter([torch.rand(150, 4)]), {"batch_size": 100, "num_vectors": 200}, InputError, "give num_vectors=150"),
        ([torch.ones(100, 4), torch.ones(100, 5)], {"batch_size": 150}, WidthError, "widths 4 and 5"),
        ([torch.ones(100)], {"batch_size": 100}, WidthError, r"shape \[100\]"),
        ([torch.ones(100, 4)], {"batch_size": 100, "epochs": 2}, ConfigError, "epochs reads vectors again"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_in_one_line(vectors, options, error, message):
    with pytest.raises(error, match=message) as caught:
        sae.train(vectors, sae.TopK(d_sae=8, k=2), **options)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("changes", [{"target_hookpoint": "blocks.0.hook_mlp_out"}])
def test_what_needs_a_store_says_so(changes):
    with pytest.raises(ConfigError, match=r"need a store: write one with sae\.write_store"):
        sae.train(torch.rand(100, 4), fast(**changes), batch_size=50)
