"""A training process killed at any moment and started again ends with the same bits."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stores import planted_activations, planted_directions, write_store

from sae.storage import Place

TIMES = {"seconds", "step_seconds", "read_seconds", "sync_seconds"}
# A short run with a state after every step: wherever it is killed, something lies half done.
PROGRAM = """
import sys
import torch
from sae.storage import Place
from sae.store.reader import Store
from sae.training.config import TrainingConfig
from sae.training.engine import train
from stores import HOOKPOINT

torch.set_num_threads(1)
config = TrainingConfig.parse({
    "dictionaries": [
        {"name": "relu", "sae": {"architecture": "relu", "d_sae": 32, "l1_coefficient": 0.02}, "resampling": {"num_inputs": 256}, "ema_decay": 0.9},
        {"name": "anneal", "sae": {"architecture": "p_annealing", "d_sae": 32}},
        {"name": "batch_topk", "sae": {"architecture": "batch_topk", "d_sae": 32, "k": 3, "aux_k": 4}, "seed": 1},
    ],
    "batch_size": 64, "log_every": 7, "checkpoint_seconds": 0, "dead_window_vectors": 640,
})
train(Store(Place(sys.argv[1])), HOOKPOINT, config, Place(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(Place(tmp_path_factory.mktemp("store")), planted_activations(4096, planted_directions(24, 16)))


def start(store, output):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.getcwd()])}
    return subprocess.Popen([sys.executable, "-c", PROGRAM, store.place.url, str(output)], env=environment)


def what_is_left(output):
    """Every byte of every dictionary but the times of its log."""
    left = {}
    for path in sorted(Path(output).rglob("*")):
        if path.suffix == ".safetensors":
            left[str(path.relative_to(output))] = path.read_bytes()
        elif path.suffix == ".jsonl":
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            left[str(path.relative_to(output))] = [{key: value for key, value in row.items() if key not in TIMES} for row in rows]
    return left


@pytest.fixture(scope="module")
def undisturbed(store, tmp_path_factory):
    output = tmp_path_factory.mktemp("undisturbed")
    assert start(store, output).wait(timeout=120) == 0
    return what_is_left(output)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_process_killed_at_random_moments_ends_where_an_undisturbed_one_does(store, undisturbed, tmp_path, seed):
    """Killed twice on its way, each time some states later; the third attempt is left alone."""
    draw = random.Random(seed)
    for _ in range(2):
        process = start(store, tmp_path)
        before, wanted = states(tmp_path), draw.randint(1, 25)
        deadline = time.monotonic() + 120
        while process.poll() is None and states(tmp_path) < before + wanted and time.monotonic() < deadline:
            time.sleep(draw.uniform(0.0005, 0.004))
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=30) == -signal.SIGKILL, "it ended before it could be killed"
    assert start(store, tmp_path).wait(timeout=120) == 0
    assert what_is_left(tmp_path) == undisturbed


def states(output):
    """The step of the newest state of the first dictionary."""
    return max((int(path.name.split("-")[1]) for path in Path(output).glob("state/relu/step-*.safetensors")), default=0)
