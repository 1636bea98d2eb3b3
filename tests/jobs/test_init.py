"""`monosem init` writes a commented file that the other commands accept; ready configurations are called by name."""

import json

import pytest

from jobs.cli import main
from jobs.init import configuration_text
from jobs.loading import load_config
from jobs.ready import DIRECTORY, ready_names
from sae.errors import ConfigError


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_written_file_is_commented_and_loads(here, capsys):
    assert main(["init", "run.yaml", "--model", "gpt2", "--text", "data/*.jsonl", "--text", 'a "b": #c']) == 0
    assert "monosem plan -c run.yaml" in capsys.readouterr().out
    config = load_config("run.yaml", [])
    assert config.output == str(here / "runs" / "run")
    assert config.subject.model == "gpt2"
    assert config.corpus.text == ["data/*.jsonl", 'a "b": #c']
    assert config.corpus.train_tokens is None
    assert list(config.harvest.hookpoints) == ["blocks.0.hook_resid_post"]
    assert (here / "run.yaml").read_text().count("# ") > 8


def test_without_options_it_is_the_embedded_model_on_text_of_known_size(here):
    assert main(["init", "run.yaml"]) == 0
    config = load_config("run.yaml", [])
    assert (config.subject.model, config.corpus.text, config.corpus.train_tokens) == ("embedded", ["dependencies"], 10_000_000)
    assert list(config.harvest.hookpoints) == ["blocks.0.mlp.hook_post"]


def test_the_hookpoint_is_in_the_middle_of_a_model_at_hand(here):
    (here / "model").mkdir()
    (here / "model" / "config.json").write_text(json.dumps({"n_embd": 64, "n_layer": 6}))
    text = configuration_text("run.yaml", "./model", ["a.txt"])
    assert "hookpoints: [blocks.3.hook_resid_post]" in text
    assert "d_sae: 512," in text


def test_an_existing_file_is_not_overwritten(here, capsys):
    (here / "run.yaml").write_text("mine")
    assert main(["init", "run.yaml"]) == 2
    assert "'run.yaml' exists already" in capsys.readouterr().err
    assert (here / "run.yaml").read_text() == "mine"
    assert main(["init", "nowhere/run.yaml"]) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("words", [(None, ["quickstart"]), ("quickstart", []), (None, ["training.seed=4", "quickstart"])])
def test_a_ready_configuration_is_called_by_its_name(words):
    assert "quickstart" in ready_names()
    assert load_config(*words).training.dictionaries == load_config(str(DIRECTORY / "quickstart.yaml"), []).training.dictionaries


def test_a_file_in_the_working_directory_goes_before_a_ready_one(here):
    (here / "quickstart").write_text("output: mine")
    assert load_config("quickstart", []).output == str(here / "mine")


def test_a_mistyped_name_of_a_ready_configuration_is_pointed_out():
    with pytest.raises(ConfigError, match="'quikstart' is not key=value and not a ready configuration: did you mean quickstart?"):
        load_config(None, ["quikstart"])
