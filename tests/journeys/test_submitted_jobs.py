"""Jobs on a real cluster of two nodes: submitted, followed, killed with a node, submitted again."""

import json
import subprocess
import sys
import time

import pytest
import yaml

from sae.storage import Place
from tests.journeys.conftest import ROOT
from tests.real_cluster import RAY, RealCluster
from tests.sae.training.stores import HOOKPOINT, planted_activations, planted_directions, write_store

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def cluster():
    cluster = RealCluster(head_cpus=1)
    yield cluster
    cluster.stop()


@pytest.fixture
def submit(cluster, tmp_path):
    """`monosem submit` as a user calls it; returns the running process."""

    def start(verb, config, *arguments, environment=None):
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(config))
        command = [
            sys.executable,
            "-m",
            "jobs",
            "submit",
            verb,
            "-c",
            str(path),
            "--address",
            cluster.address,
            "--python",
            sys.executable,
            *arguments,
        ]
        environment = {**cluster.environment, "PYTHONPATH": str(ROOT), **(environment or {})}
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    return start


def finished(process, timeout=240):
    output, _ = process.communicate(timeout=timeout)
    return process.returncode, output


def small_shards(tiny_run, output, **harvest):
    return {**tiny_run, "output": str(output), "harvest": {**tiny_run["harvest"], "sequences_per_shard": 2, **harvest}}


def test_a_harvest_that_loses_a_node_ends_as_an_undisturbed_one(submit, cluster, tiny_run, tmp_path):
    code, log = finished(submit("harvest", small_shards(tiny_run, tmp_path / "calm", num_workers=1), "--follow"))
    assert code == 0, log
    assert "stage_finished" in log
    calm = Place(tmp_path / "calm" / "store")

    node = cluster.add_node()
    disturbed = Place(tmp_path / "disturbed" / "store")
    job = submit("harvest", small_shards(tiny_run, tmp_path / "disturbed"), "--follow")
    wait_for_receipts(disturbed, 30, job)
    cluster.kill(node)
    killed = time.monotonic()
    receipts = len(disturbed.list("receipts"))
    wait_for_receipts(disturbed, receipts + 5, job)
    print(f"work went on {time.monotonic() - killed:.1f} s after the node's death")
    assert time.monotonic() - killed < 30
    code, log = finished(job)
    assert code == 0, log
    print(f"finished {time.monotonic() - killed:.1f} s after the node's death")
    assert disturbed.get("manifest.json") == calm.get("manifest.json")


def test_the_same_submission_meets_the_running_job_and_another_one_is_refused(submit, cluster, tiny_run, tmp_path):
    waiting = small_shards(tiny_run, tmp_path / "run", pool={"num_gpus": 1})  # there is no GPU, so the job runs until it is stopped
    code, log = finished(submit("harvest", waiting))
    assert (code, "event=submitted" in log) == (0, True), log
    code, again = finished(submit("harvest", waiting))
    assert (code, "event=already_running" in again) == (0, True), again
    code, refused = finished(submit("harvest", waiting, "harvest.seed=7"))
    assert (code, refused.count("\n")) == (2, 1), refused
    assert "with another verb or configuration is" in refused
    job_id = log.split("job=")[1].split()[0]
    command = [RAY, "job", "stop", job_id, "--address", cluster.address]
    assert "was stopped" in subprocess.run(command, env=cluster.environment, capture_output=True, text=True, timeout=120, check=True).stdout
    code, log = finished(submit("harvest", waiting, "--follow", "harvest.pool.num_gpus=0"))
    assert code == 0, log


def test_the_exit_code_is_the_jobs_own_and_a_wrong_token_is_said(submit, tiny_run, tmp_path):
    code, log = finished(submit("harvest", {**tiny_run, "output": str(tmp_path / "run"), "subject": {"model": "/nowhere/model"}}, "--follow"))
    assert code == 2, log
    assert "'/nowhere/model'" in log.splitlines()[-1]
    code, log = finished(submit("harvest", small_shards(tiny_run, tmp_path / "run2"), environment={"RAY_AUTH_TOKEN": "wrong" * 8}))
    assert (code, log.count("\n")) == (2, 1), log
    assert "refuses the token" in log
    assert "wrong" * 8 not in log


def test_a_training_that_loses_a_node_goes_on_with_one_worker_and_ends(submit, cluster, tmp_path):
    """Two workers share every batch; the node of one dies in the middle, and the other takes all the steps that are left."""
    num_steps = 240
    write_store(Place(tmp_path / "store"), planted_activations(16 * num_steps, planted_directions(8, 4)))
    dictionary = {"name": "topk", "sae": {"architecture": "topk", "d_sae": 8, "k": 2}}
    run = {
        "output": str(tmp_path / "run"),
        "store": str(tmp_path / "store"),
        "harvest": {"hookpoints": [HOOKPOINT]},
        "training": {"dictionaries": [dictionary], "batch_size": 16, "log_every": 1, "checkpoint_seconds": 0},
        "trainer": {"num_workers": 2, "min_workers": 1, "parallel": "data", "num_cpus": 1},
    }
    node = cluster.add_node()
    job = submit("train", run, "--follow")
    dictionaries = Place(tmp_path / "run" / "dictionaries")
    wait_for_step(dictionaries, 20, job)
    cluster.kill(node)
    killed, step = time.monotonic(), last_step(dictionaries)
    code, log = finished(job)
    assert code == 0, log
    print(f"ended {time.monotonic() - killed:.1f} s after the node's death at step {step}")
    assert step < num_steps
    assert dictionaries.get_json("topk/result.json")["steps"] == num_steps
    rows = [json.loads(line) for line in dictionaries.get("topk/training.jsonl").splitlines()]
    assert [row["step"] for row in rows] == list(range(1, num_steps + 1))


def test_a_training_that_is_stopped_saves_its_last_state_and_says_how_to_continue(submit, cluster, tmp_path):
    """`ray job stop` sends SIGTERM to the driver; no state is due for an hour."""
    write_store(Place(tmp_path / "store"), planted_activations(4096, planted_directions(8, 4)))
    run = {
        "output": str(tmp_path / "run"),
        "store": str(tmp_path / "store"),
        "harvest": {"hookpoints": [HOOKPOINT]},
        "training": {
            "dictionaries": [{"name": "topk", "sae": {"architecture": "topk", "d_sae": 8, "k": 2}}],
            "batch_size": 16,
            "epochs": 1000,
            "checkpoint_seconds": 3600,
        },
        "trainer": {"num_cpus": 1},
    }
    job = submit("train", run)
    job_id = finished(job)[1].split("job=")[1].split()[0]
    following = submit("train", run, "--follow")
    lines = []
    while "stage=train done=" not in (line := following.stdout.readline()):
        assert line, lines
        lines.append(line)
    time.sleep(2)
    command = [RAY, "job", "stop", job_id, "--address", cluster.address]
    subprocess.run(command, env=cluster.environment, capture_output=True, text=True, timeout=120, check=True)
    _, log = finished(following)
    assert log.count("monosem: ") == 1, log
    assert "monosem: interrupted by SIGTERM; run the same command again to continue" in log
    assert last_step(Place(tmp_path / "run" / "dictionaries")) > 0
    assert not Place(tmp_path / "run").list("leases")


def last_step(dictionaries):
    return max((int(key.split("step-")[1].split("-")[0]) for key in dictionaries.list("state/topk") if "step-" in key), default=0)


def wait_for_step(dictionaries, step, job):
    deadline = time.monotonic() + 200
    while last_step(dictionaries) < step:
        assert job.poll() is None, job.communicate()[0]
        assert time.monotonic() < deadline, "the training does not get on"
        time.sleep(0.05)


def wait_for_receipts(store, number, job):
    deadline = time.monotonic() + 120
    while len(store.list("receipts")) < number:
        assert job.poll() is None, job.communicate()[0]
        assert time.monotonic() < deadline, "the harvest does not get on"
        time.sleep(0.05)
