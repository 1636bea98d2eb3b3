"""A whole run small enough for a test: the tiny subject, 60 documents, two dictionaries."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
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
        "cluster": {"num_cpus": 2, "object_store_bytes": 100 * 2**20},
    }


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
