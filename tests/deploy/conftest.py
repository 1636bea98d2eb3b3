"""Prometheus' own tool, where `make system-tools` put it or the machine has it."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def promtool():
    """Runs promtool; returns its exit status and what it said."""
    tool = shutil.which("promtool", path=str(ROOT / ".tools" / "prometheus")) or shutil.which("promtool")
    if tool is None:
        pytest.skip("no promtool on this machine: `make system-tools` unpacks Debian's package")

    def run(*arguments, given=None):
        done = subprocess.run([tool, *map(str, arguments)], input=given, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stdout + done.stderr

    return run
