"""A run is one object: everything its stages left is an attribute, what is missing is None, what is damaged is refused."""

import re
import subprocess
from pathlib import Path

import pytest

import sae
from sae.errors import CorruptObjectError, InputError
from sae.evaluation.report import EvaluationReport
from sae.run import layout
from sae.storage import Place
from tests.planted_run import write_run

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return write_run(Place(tmp_path_factory.mktemp("runs") / "planted"), num_features=20)


@pytest.fixture
def run(place):
    return sae.Run(place.url)


def test_its_dictionaries_come_in_the_order_of_the_configuration_with_their_figures(run):
    assert [*run.dictionaries] == ["topk", "relu"]
    found = run.dictionaries["topk"]
    assert isinstance(found.evaluation, EvaluationReport)
    assert 0 < found.evaluation.fvu < 1
    assert found.result.name == "topk"
    assert found.log[0]["step"] <= found.log[-1]["step"]
    assert repr(found).startswith("RunDictionary('topk', topk, ")


def test_features_and_examples_are_tables(run):
    features = run.features("topk")
    assert {"feature", "density", "score_spearman"} <= {*features.column_names}
    assert features.num_rows == 20
    assert set(run.examples("topk", [features["feature"][0].as_py()])["feature"].to_pylist()) == {features["feature"][0].as_py()}
    assert run.interpretation("topk").hookpoint.startswith("blocks.")


def test_an_unknown_source_names_those_that_there_are(run):
    assert run.sources == ["neurons", "random_directions", "relu", "topk"]
    with pytest.raises(InputError, match=r"no interpreted source 'topc' \(there are: neurons, .*topk\): did you mean topk\?"):
        run.features("topc")


def test_it_shows_itself(run):
    assert re.fullmatch(r"Run\('.*planted', dictionaries: topk, relu; finished: .*\)", repr(run))
    assert "evaluation" in dir(run.dictionaries["topk"])


def test_what_is_missing_is_none(tmp_path):
    Place(tmp_path).put_sealed(layout.CONFIG_KEY, {"output": "x", "store": None, "training": {"dictionaries": []}})
    run = sae.Run(tmp_path)
    assert (run.stages, run.corpus, run.store, run.concepts) == (None, None, None, None)
    assert (run.dictionaries, run.sources) == ({}, [])


def test_a_directory_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="is no run: it has no config.json, stages.json or dictionaries"):
        sae.Run(tmp_path)


def test_a_dictionary_that_was_not_evaluated_says_which_command_does_it(tmp_path):
    run = write_run(Place(tmp_path / "run"), num_features=5)
    run.delete("evaluation/topk.json")
    with pytest.raises(InputError, match="has not been evaluated. Run `monosem evaluate` first"):
        _ = sae.Run(run).dictionaries["topk"].evaluation


def test_a_changed_figure_is_refused(tmp_path):
    run = write_run(Place(tmp_path / "run"), num_features=5)
    run.put_json("evaluation/topk.json", run.get_json("evaluation/topk.json") | {"fvu": 0.0001})
    with pytest.raises(CorruptObjectError):
        _ = sae.Run(run).dictionaries["topk"].evaluation


def test_the_report_of_a_run_is_written_by_its_path(place):
    sae.write_report(place.url, output_key="again.html")
    assert place.get("again.html").startswith(b"<!doctype html>")


@pytest.mark.parametrize("key", [layout.STAGES_KEY, layout.SUMMARY_KEY])
def test_each_key_of_a_run_is_written_in_one_file(key):
    found = subprocess.run(["git", "grep", "-l", f'"{key}"', "--", "sae", "services", "jobs"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.stdout.split() == ["sae/run/layout.py"]
