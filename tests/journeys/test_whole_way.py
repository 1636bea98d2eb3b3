"""One command goes the whole way; run again it skips what is done; killed and run again it ends in the same place."""

import functools
import json
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
import torch
import yaml
from prometheus_client.parser import text_string_to_metric_families

import sae
from sae.storage import Place
from sae.store.reader import Store
from sae.store.verification import verify_store
from services.monitoring.metrics import METRICS
from tests.journeys.conftest import PLANTED, Scraper

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_run):
    """A run that was interrupted by SIGINT during its first stages and then run again."""
    output = tmp_path_factory.mktemp("run") / "tiny"
    path = output.parent / "run.yaml"
    path.write_text(yaml.safe_dump(tiny_run | {"output": str(output)}))
    command = [sys.executable, "-m", "jobs", "run", "-c", str(path)]
    # A shell starts what it puts into the background with SIGINT ignored, and its children inherit that: a user's terminal does not.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    first = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    deadline = time.monotonic() + 120
    while not (output / "store" / "plan.json").exists() and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    first.send_signal(signal.SIGINT)
    _, interrupted = first.communicate(timeout=60)
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port = opened.getsockname()[1]
    scraper = Scraper(port)
    scraper.start()
    command.append(f"cluster.metrics_port={port}")
    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False, env=os.environ | PLANTED)
    scraper.stop()
    assert second.returncode == 0, second.stderr
    second.scraper = scraper
    return output, first.returncode, interrupted, second


def test_an_interrupted_run_says_how_to_continue(finished):
    _, code, said, _ = finished
    assert code == 130
    assert "interrupted; run the same command again to continue" in said
    assert "Traceback" not in said


def test_it_ends_with_a_table_and_the_path_of_the_report(finished):
    output, _, _, process = finished
    assert f"report: {output}/report.html" in process.stdout
    assert "loss recovered" in process.stdout
    assert "GiB peak memory" in process.stdout
    for stage in ("harvest", "train", "evaluate", "interpret"):
        assert stage in process.stderr, "every stage shows its progress"


def test_the_summary_holds_every_figure_the_readers_of_it_need(finished):
    output, *_ = finished
    summary = json.loads((output / "summary.json").read_text())
    assert [entry["name"] for entry in summary["dictionaries"]] == ["topk", "relu"]
    for entry in summary["dictionaries"]:
        assert entry.keys() >= {"architecture", "d_in", "d_sae", "loss_recovered_zero", "loss_recovered_mean", "l0", "fvu", "dead_fraction"}
        assert "explanation_score_median" in entry
        assert (entry["d_in"], entry["d_sae"]) == (32, 64)
    assert summary["baselines"].keys() == {"neurons", "random_directions", "pca"}
    assert summary["wall_seconds"] > 0
    assert summary["peak_rss_bytes"] > 2**28
    assert summary["versions"].keys() >= {"torch", "ray", "monosem"}
    assert summary["seeds"]


def test_every_stage_left_its_output_and_the_resolved_configuration(finished):
    output, *_ = finished
    for key in ("config.json", "corpus/manifest.json", "store/manifest.json", "dictionaries/topk/result.json", "evaluation/relu.json", "report.html"):
        assert (output / key).exists(), key
    assert json.loads((output / "config.json").read_text())["training"]["batch_size"] == 256
    assert not list(output.rglob("*.partial"))


def test_the_store_verifies_and_the_dictionary_encodes_without_ray(finished):
    output, *_ = finished
    store = Store(Place(output / "store"))
    assert verify_store(store.place) == []
    dictionary = sae.load_dictionary(str(output / "dictionaries" / "topk"))
    x = store.pieces("blocks.0.mlp.hook_post", 0, 0, 8)[0].float()
    features = dictionary.encode(x)
    assert features.shape == (8, 64)
    assert (features > 0).sum(dim=1).max() <= 4


def test_the_five_lines_of_the_readme_work(finished):
    output, *_ = finished
    [code] = re.findall(r"```python\n(import sae\n.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    names = {"activation": torch.rand(3, 32)}
    exec(code.replace("runs/quickstart", str(output)), names)
    assert names["features"].shape == (3, 64)
    assert names["reconstruction"].shape == (3, 32)


def test_the_tutorial_reads_this_run(finished, tmp_path, monkeypatch, capsys):
    output, *_ = finished
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/quickstart").symlink_to(output)
    monkeypatch.chdir(tmp_path)
    names = runpy.run_path(str(ROOT / "examples/tutorial.py"))
    assert names["features_of_rows"].shape == (100, 64)
    said = capsys.readouterr().out
    assert said.startswith("Run('runs/quickstart', dictionaries: topk, relu")
    assert "relu: L0" in said
    assert "»" in said


def test_a_runs_metrics_are_those_declared_quickly_read_and_few(finished):
    *_, process = finished
    scraper = process.scraper
    assert min(scraper.seconds) <= 0.05, "the quickest of many: what the machine does besides is not ours"
    found = {family.name: family for family in text_string_to_metric_families(scraper.text)}
    # What nothing in this run gives: it has no language model, no browser, a single training worker, and nothing went wrong.
    # No worker is stuck, and where ablation costs this untrained model nothing, no loss is recovered.
    elsewhere = (
        *("monosem_llm_", "monosem_browser_", "monosem_train_sync_seconds", "monosem_stage_seconds"),
        *("monosem_workers_stuck", "monosem_evaluation_loss_recovered"),
    )
    fed = {metric.name.removesuffix("_total"): metric for metric in METRICS if not metric.name.startswith(elsewhere)}
    assert [name for name in fed if not found[name].samples] == []
    assert sum(len(family.samples) for family in found.values()) < 300, "labels are bounded by the configuration"
    committed = {sample.labels["outcome"]: sample.value for sample in found["monosem_shards"].samples if sample.name.endswith("_total")}
    assert committed["committed"] >= 1


def test_no_secret_of_the_environment_is_ever_written(finished, monosem):
    output, _, _, process = finished
    shown = monosem("show", str(output)).stdout + monosem("show", str(output / "store")).stdout
    texts = {"stdout": process.stdout, "stderr": process.stderr, "metrics": process.scraper.text, "show": shown}
    texts |= {str(path): path.read_bytes().decode("utf-8", errors="replace") for path in output.rglob("*") if path.is_file()}
    found = [(where, name) for where, text in texts.items() for name, secret in PLANTED.items() if secret in text]
    assert found == []


@pytest.mark.usefixtures("cluster_at_hand")
def test_run_again_it_does_nothing_twice(finished, monosem):
    output, *_ = finished
    watched = [
        output / key
        for key in ("store/manifest.json", "dictionaries/relu/weights.safetensors", "evaluation/topk.json", "interpretation/topk/summary.json")
    ]
    before = [path.stat().st_mtime_ns for path in watched]
    seconds = json.loads((output / "summary.json").read_text())["wall_seconds"]
    again = monosem("run", "-c", str(output.parent / "run.yaml"))
    assert again.returncode == 0, again.stderr
    assert [path.stat().st_mtime_ns for path in watched] == before
    assert json.loads((output / "summary.json").read_text())["wall_seconds"] < 2 * seconds


def test_show_says_what_lies_where(finished, monosem):
    output, _, _, process = finished
    run = monosem("show", str(output)).stdout
    assert "a run" in run
    table = [line for line in process.stdout.splitlines() if line.startswith(("topk ", "relu ", "explanation score"))]
    assert len(table) > 2
    assert set(table) <= set(run.splitlines()), "the table that the run ended with"
    assert "sequences" in monosem("show", str(output / "corpus")).stdout
    assert "a topk dictionary 'topk', 32 → 64" in monosem("show", str(output / "dictionaries" / "topk")).stdout
    shown = monosem("show", str(output / "store"), "--verify").stdout
    assert "activations of 32 float16" in shown
    assert "verified" in shown


def test_a_damaged_shard_is_found_and_named(finished, monosem, tmp_path):
    output, *_ = finished
    copy = tmp_path / "store"
    subprocess.run(["cp", "-r", str(output / "store"), str(copy)], check=True)
    shard = copy / "shards" / "blocks.0.mlp.hook_post" / "000001.arrow"
    os.truncate(shard, shard.stat().st_size // 2)
    done = monosem("show", str(copy), "--verify")
    assert done.returncode == 1
    assert "000001.arrow" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_plan_says_beforehand_what_the_run_then_took(finished, monosem):
    output, *_ = finished
    train = json.loads((output / "store" / "plan.json").read_text())["num_sequences"] * 32
    done = monosem("plan", "-c", str(output.parent / "run.yaml"), f"corpus.train_tokens={train}", "corpus.held_out_tokens=1000")
    assert done.returncode == 0, done.stderr
    assert f"{train:,} tokens to train on" in done.stdout
    written = sum(path.stat().st_size for path in (output / "store").rglob("*.arrow"))
    [(size, unit)] = re.findall(r"store +([\d.]+) (\w+) \(float16\)", done.stdout)
    said = float(size) * {"kB": 1e3, "MB": 1e6, "GB": 1e9}[unit]
    assert abs(said - written) < 0.25 * written


TIMED = re.compile(r"(config|stages|summary)\.json|report\.html|dictionaries/\w+/(result\.json|training\.jsonl)|evaluation/saebench/.*")
"""Files that hold times or identifiers of a run, and the configuration, which names the output."""


def untimed(figures):
    """The figures of a summary without its times, sizes of memory and paths."""
    return [{name: value for name, value in entry.items() if "seconds" not in name} for entry in figures["dictionaries"]]


def test_one_process_without_ray_leaves_the_same_bytes(finished, tmp_path):
    output, *_ = finished
    command = [sys.executable, "-m", "tests.journeys.without_ray", "run", "-c", str(output.parent / "run.yaml"), f"output={tmp_path / 'here'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False, env=os.environ | PLANTED)
    assert done.returncode == 0, done.stderr
    assert 'executor=local reason="Ray is not installed"' in done.stderr
    found, expected = ({str(path.relative_to(root)): path for path in root.rglob("*") if path.is_file()} for root in (tmp_path / "here", output))
    assert found.keys() == expected.keys()
    compared = [name for name in expected if not TIMED.fullmatch(name)]
    assert [name for name in compared if found[name].read_bytes() != expected[name].read_bytes()] == []
    assert {"store/manifest.json", "dictionaries/topk/weights.safetensors", "evaluation/relu.json", "interpretation/comparison.json"} <= {*compared}
    here, there = (json.loads(files["summary.json"].read_text()) for files in (found, expected))
    assert untimed(here) == untimed(there)


def test_a_stage_runs_on_a_cluster_that_is_already_there(ray_cluster, finished, tmp_path):
    output, *_ = finished
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-m", "jobs", "harvest", "-c", str(output.parent / "run.yaml"), f"output={tmp_path}/again"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False, env=os.environ | {"RAY_ADDRESS": address})
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "again/store/manifest.json").read_bytes() == (output / "store/manifest.json").read_bytes()
    assert ray.is_initialized(), "the cluster outlives the job"
