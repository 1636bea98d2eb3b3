"""A run that is told to stop in every stage, each time by another signal: one line, the signal's exit code, within ten seconds, nothing lost."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from sae.storage import Place
from sae.store.reader import Store
from sae.training.config import TrainingConfig
from sae.training.engine import train

ROOT = Path(__file__).parents[2]
SECONDS = 10.0
# In this order on one output: the stage, something that it writes while it works, the signal, its exit code.
STAGES = [
    ("harvest", "store/plan.json", signal.SIGTERM, 143),
    ("train", "dictionaries/relu/plan.json", signal.SIGINT, 130),
    ("evaluate", "dictionaries/relu/result.json", signal.SIGHUP, 129),
    ("interpret", "evaluation/relu.json", signal.SIGTERM, 143),
]


def _heed_signals():
    """A shell starts what it puts into the background with SIGINT ignored, and its children inherit that: a user's terminal does not."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture(scope="module", params=["ray", "local"])
def journey(request, tmp_path_factory, tiny_run):
    """How each interrupted command ended, and the output of the one that was let finish: on a cluster, and in one process."""
    output = tmp_path_factory.mktemp("signals") / "run"
    cluster = tiny_run["cluster"] | {"executor": request.param}
    # One process trains so quickly that a signal would come too late.
    epochs = {"ray": 15, "local": 60}[request.param]
    config = tiny_run | {"output": str(output), "cluster": cluster, "training": tiny_run["training"] | {"epochs": epochs}}
    (output.parent / "run.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "jobs", "run", "-c", str(output.parent / "run.yaml")]
    ends = {}
    for stage, sign, number, _ in STAGES:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, preexec_fn=_heed_signals)
        deadline = time.monotonic() + 150
        while not (output / sign).exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1.0 if request.param == "ray" else 0.1)
        sent = time.monotonic()
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        ends[stage] = process.returncode, said, time.monotonic() - sent, list(output.rglob("lease/*.json"))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    return output, config, ends


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("stage", "code"), [(stage, code) for stage, _, _, code in STAGES])
def test_a_signal_ends_a_stage_with_one_line_its_code_and_no_lease_in_time(journey, stage, code):
    found, said, seconds, leases = journey[2][stage]
    assert found == code, said
    lines = [line for line in said.splitlines() if "monosem:" in line]
    assert len(lines) == 1
    assert "run the same command again to continue" in lines[0]
    assert "Traceback" not in said
    assert "PC: @" not in said  # the stack that Ray's own handler prints
    assert seconds < SECONDS
    assert leases == []


def test_what_was_interrupted_four_times_ends_as_if_it_had_not_been(journey, tmp_path):
    output, config, _ = journey
    train(Store(Place(output / "store")), "blocks.0.mlp.hook_post", TrainingConfig.parse(config["training"]), Place(tmp_path))
    for name in ("topk", "relu"):
        assert Place(tmp_path).get(f"{name}/weights.safetensors") == Place(output).get(f"dictionaries/{name}/weights.safetensors")
