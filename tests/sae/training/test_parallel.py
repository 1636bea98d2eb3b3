"""Training over several workers is training by one: along rows of the batch and along features of the dictionary."""

import subprocess
import sys
from pathlib import Path

import parallel_ranks
import pytest
import torch
from parallel_ranks import RANKS, RESAMPLED, case_file, cases, train_alone_or_together, whole_run
from safetensors.torch import load_file
from stores import HOOKPOINT, planted_activations, planted_directions, write_store

from sae.parallel.workers import ALONE
from sae.storage import Place
from sae.training.engine import train

# Relative to the largest element of each tensor, after sixteen steps: what is left is the order of sums.
TOLERANCES = {"float64": 1e-11, "float32": 1e-5}


def run_ranks(number, *arguments):
    """The exit codes of so many processes that met."""
    ranks = [subprocess.Popen([sys.executable, parallel_ranks.__file__, str(rank), *map(str, arguments)]) for rank in range(number)]
    try:
        return [rank.wait(timeout=300) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Where four processes have left the outcome of every case."""
    directory = tmp_path_factory.mktemp("ranks")
    assert run_ranks(RANKS, directory) == [0] * RANKS
    return Path(directory)


@pytest.fixture(scope="module")
def alone():
    """What one worker makes of each case."""
    known = {}

    def outcome(architecture, dtype):
        if (architecture, dtype) not in known:
            known[architecture, dtype] = train_alone_or_together(architecture, getattr(torch, dtype), ALONE)
        return known[architecture, dtype]

    return outcome


@pytest.mark.parametrize(("architecture", "dtype", "axis", "size"), cases())
def test_several_workers_end_where_one_does(together, alone, architecture, dtype, axis, size):
    """Weights, moments, averages and log: clipping, warm-ups, dead features and resampling included."""
    expected = alone(architecture, dtype)
    found = load_file(case_file(together, architecture, dtype, axis, size))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert largest(found[name].double() - tensor) <= TOLERANCES[dtype] * largest(tensor), name


@pytest.mark.parametrize("architecture", RESAMPLED)
def test_the_case_holds_what_it_is_meant_to(alone, architecture):
    """Features that died and were resampled, or the comparison would show nothing of them."""
    assert alone(architecture, "float64")["resampled"][1] > 0


@pytest.mark.parametrize("axis", ["data", "features"])
def test_what_two_workers_began_one_may_finish(tmp_path, axis):
    """The leader dies in the middle of a step; the state that both had saved is whole, whoever takes it up, and the batches are the same."""
    store = write_store(Place(tmp_path / "store"), planted_activations(2048, planted_directions(24, 8)))
    assert run_ranks(2, tmp_path, axis)[0] == 9
    [newest] = Place(tmp_path / axis).list("state")[-1:]
    assert int(newest.split("-")[1]) > 8
    train(store, HOOKPOINT, whole_run(), Place(tmp_path / axis))
    train(store, HOOKPOINT, whole_run(), Place(tmp_path / "alone"))
    expected, found = (load_file(tmp_path / name / "relu" / "weights.safetensors") for name in ("alone", axis))
    for name, tensor in expected.items():
        assert largest(found[name] - tensor) <= TOLERANCES["float32"] * largest(tensor), name


def largest(tensor):
    return tensor.abs().max()
