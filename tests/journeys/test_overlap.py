"""`monosem run --overlap`: training beside the harvest ends with the bits of one after the other, whatever dies in between."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def many_shards(tiny_run):
    """More shards than a group of the batch order has, so that training can begin before the last one is written."""
    harvest = tiny_run["harvest"] | {"sequences_per_shard": 4, "num_workers": 1}
    training = tiny_run["training"] | {"epochs": 1, "checkpoint_seconds": 1.0}
    return tiny_run | {"harvest": harvest, "training": training}


def weights(output: Path) -> dict[str, str]:
    return {path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(output.glob("dictionaries/*/weights.safetensors"))}


def start(config: dict, output: Path, *arguments: str) -> subprocess.Popen:
    path = output.parent / f"{output.name}.yaml"
    path.write_text(yaml.safe_dump(config | {"output": str(output)}))
    command = [sys.executable, "-m", "jobs", "run", *arguments, "-c", str(path)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def kill_when(condition, process, seconds=240) -> str:
    """What the process said on standard error until then."""
    deadline = time.monotonic() + seconds
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    there = condition()
    os.kill(process.pid, signal.SIGKILL)
    said = process.communicate(timeout=60)[1]
    assert there, said
    return said


def trained(output: Path) -> bool:
    """Whether training is done; what comes after it is tested elsewhere."""
    record = output / "stages.json"
    return record.exists() and bool(json.loads(record.read_text())["stages"].get("train", {}).get("finished"))


@pytest.fixture(scope="module")
def overlapped(tmp_path_factory, many_shards):
    """An overlapped run that was killed with all its processes while both sides worked, and then run again."""
    output = tmp_path_factory.mktemp("overlap") / "run"
    first = start(many_shards, output, "--overlap")
    said = kill_when(lambda: any((output / "store/receipts").rglob("*.json")), first)
    assert not (output / "store/manifest.json").exists()
    said += kill_when(lambda: trained(output), start(many_shards, output, "--overlap"))
    return output, said


def test_it_ends_with_the_bits_of_one_stage_after_the_other(overlapped, many_shards):
    output, _ = overlapped
    sequential = output.parent / "sequential"
    kill_when(lambda: trained(sequential), start(many_shards, sequential))
    assert (output / "store/manifest.json").read_bytes() == (sequential / "store/manifest.json").read_bytes()
    assert weights(output) == weights(sequential)
    assert weights(output).keys() == {"topk", "relu"}


def test_both_worked_at_the_same_time_and_it_says_so(overlapped):
    output, said = overlapped
    assert said.count("event=stages_overlap") == 2
    assert "harvest_workers=1 training_workers=1" in said
    record = json.loads((output / "stages.json").read_text())["stages"]
    assert record["harvest"]["finished"]
    assert record["train"]["finished"]
