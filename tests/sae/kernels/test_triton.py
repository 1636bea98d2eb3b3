"""The GPU's kernels: on every machine by Triton's interpreter, on a GPU also by the compiler."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sae.kernels import cpu, products

ROOT = Path(__file__).parents[3]
INTERPRETER = ROOT / ".venv-triton" / "bin" / "python"


def errors_of(python, device, **environment):
    command = [python, "-m", "tests.sae.kernels.triton_checks", device]
    ended = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.mark.skipif(not INTERPRETER.exists(), reason="no .venv-triton with Triton's interpreter: run make triton")
def test_interpreted_kernels_are_those_of_dense_float64():
    errors = errors_of(INTERPRETER, "cpu", TRITON_INTERPRET="1")
    assert len(errors) == 2 * 3 + 2 * 5
    assert {name: error for name, error in errors.items() if error >= 1e-5} == {}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_compiled_kernels_are_those_of_dense_float64():
    assert {name: error for name, error in errors_of(sys.executable, "cuda").items() if error >= 1e-5} == {}


def test_a_cpu_takes_the_torch_operations():
    assert products._kernels(torch.zeros(1)) is cpu
