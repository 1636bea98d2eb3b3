"""The examples run from their first line to their last, and what they print is true."""

import re
import runpy
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_training_on_tensors_finds_most_of_the_planted_directions(capsys):
    runpy.run_path(str(EXAMPLES / "train_on_tensors.py"))
    assert int(re.search(r"(\d+)% of the planted", capsys.readouterr().out)[1]) > 70


def test_an_architecture_of_ones_own_takes_25_lines_to_a_saved_dictionary(capsys):
    lines = [line for line in (EXAMPLES / "own_architecture.py").read_text().splitlines() if line.strip() and not line.startswith("#")]
    assert next(at for at, line in enumerate(lines, 1) if line.startswith("sae.save_dictionary")) <= 25
    names = runpy.run_path(str(EXAMPLES / "own_architecture.py"))
    assert capsys.readouterr().out.startswith("SquaredDictionary(d_in=16, d_sae=64)")
    assert names["sae"].measure(names["dictionary"], names["vectors"]).fvu < 0.5


def test_a_store_is_read_with_and_without_the_package(capsys):
    runpy.run_path(str(EXAMPLES / "read_a_store.py"))
    assert "5000 rows" in (said := capsys.readouterr().out)
    assert "activation" in said


def test_every_example_is_run_by_a_test():
    tests = Path(__file__).read_text() + (EXAMPLES.parent / "tests/journeys/test_whole_way.py").read_text()  # there is a run for the tutorial
    assert [path.name for path in EXAMPLES.glob("*.py") if path.name not in tests] == []


def teardown_module():
    from sae.architectures.config import REGISTERED
    from sae.architectures.registry import ARCHITECTURES

    for name in [*REGISTERED]:
        del REGISTERED[name], ARCHITECTURES[name]
    torch.manual_seed(0)
