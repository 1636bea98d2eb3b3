"""A whole run small enough for a test: the tiny subject, 60 documents, two dictionaries."""

import os
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
import ray
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def tiny_run(tiny_subject_directory, text_directory):
    """The configuration of a tiny run, but for its output."""
    return {
        "subject": {"model": str(tiny_subject_directory)},
        "corpus": {"text": [str(text_directory)], "context_length": 32, "held_out_fraction": 0.2},
        "harvest": {"hookpoints": ["blocks.0.mlp.hook_post"], "sequences_per_shard": 64, "num_workers": 2},
        "training": {
            "batch_size": 256,
            "log_every": 5,
            "dead_window_vectors": 5000,
            "dictionaries": [
                {"name": "topk", "sae": {"architecture": "topk", "d_sae": 64, "k": 4}, "optimizer": {"learning_rate": 3e-3}},
                {
                    "name": "relu",
                    "sae": {"architecture": "relu", "d_sae": 64, "l1_coefficient": 0.01},
                    "optimizer": {"learning_rate": 3e-3},
                    "resampling": {},
                },
            ],
        },
        # Several of these workers are tested in tests/services; here each would cost seconds of imports.
        "evaluation": {"num_workers": 1},
        "interpretation": {"num_workers": 1},
        "cluster": {"num_cpus": 2, "object_store_bytes": 100 * 2**20},
    }


@pytest.fixture
def cluster_at_hand(ray_cluster, monkeypatch):
    """Commands use one cluster that is there already, instead of starting one each."""
    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)


@pytest.fixture
def monosem(tmp_path):
    """Run the command line as a user does; returns the finished process."""

    def run(*arguments, config=None, timeout=170):
        command = [sys.executable, "-m", "jobs", *arguments]
        if config is not None:
            path = tmp_path / "run.yaml"
            path.write_text(yaml.safe_dump(config))
            command += ["-c", str(path)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False, env=os.environ | {"COLUMNS": "200"})

    return run


# What must appear nowhere: not in a log, a configuration, `show`, a metric or any file that a run leaves.
PLANTED = {
    name: f"planted-{number}-{name.lower()}"
    for number, name in enumerate(
        ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "OPENAI_API_KEY", "WANDB_API_KEY", "RAY_AUTH_TOKEN")
    )
}


class Scraper(threading.Thread):
    """Reads a run's metrics again and again while it runs, as Prometheus would; keeps the last text, and the time of each reading.

    Args:
        port: of the run's board.
    """

    def __init__(self, port):
        super().__init__(name="scraper", daemon=True)
        self.url, self.text, self.seconds, self._stop_scraping = f"http://127.0.0.1:{port}/metrics", "", [], threading.Event()

    def run(self):
        while not self._stop_scraping.wait(0.2):
            began = time.perf_counter()
            try:
                with urllib.request.urlopen(self.url, timeout=5) as answer:
                    self.text = answer.read().decode()
            except OSError:
                continue  # it has not begun, or has ended
            self.seconds.append(time.perf_counter() - began)

    def stop(self):
        self._stop_scraping.set()
        self.join(10)
