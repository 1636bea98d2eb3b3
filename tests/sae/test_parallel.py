"""Training over several workers is training by one: along rows of the batch and along features of the dictionary."""

import subprocess
import sys
from pathlib import Path

import parallel_ranks
import pytest
import torch
from parallel_ranks import RANKS, RESAMPLED, case_file, cases, train_alone_or_together
from safetensors.torch import load_file

from sae.parallel import ALONE

# Relative to the largest element of each tensor, after sixteen steps: what is left is the order of sums.
TOLERANCES = {"float64": 1e-12, "float32": 1e-5}


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Where four processes have left the outcome of every case."""
    directory = tmp_path_factory.mktemp("ranks")
    ranks = [subprocess.Popen([sys.executable, parallel_ranks.__file__, str(rank), str(directory)]) for rank in range(RANKS)]
    try:
        assert [rank.wait(timeout=300) for rank in ranks] == [0] * RANKS
    finally:
        for rank in ranks:
            rank.kill()
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


def largest(tensor):
    return tensor.abs().max()
