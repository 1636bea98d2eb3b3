"""Bad input: one line that says what was found, what was expected and what to do; exit code 2; nothing written."""

import os

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600), pytest.mark.usefixtures("cluster_at_hand")]


def failed(process, code, *phrases):
    """The process failed with `code` and one line that holds all phrases."""
    complaints = [line for line in process.stderr.splitlines() if line.startswith("monosem: ")]
    assert process.returncode == code, process.stderr
    assert len(complaints) == 1, process.stderr
    assert "Traceback" not in process.stderr
    for phrase in phrases:
        assert phrase in complaints[0]


def test_an_unknown_key(monosem, tiny_run, tmp_path):
    failed(monosem("run", "corpus.tokens=1", config=tiny_run | {"output": str(tmp_path / "run")}), 2, "unknown key 'corpus.tokens'")
    assert not (tmp_path / "run").exists()


def test_a_missing_configuration_file(monosem):
    failed(monosem("run", "-c", "nothing.yaml"), 2, "cannot read the configuration 'nothing.yaml'")


def test_a_path_that_holds_no_text(monosem, tiny_run, tmp_path):
    config = tiny_run | {"output": str(tmp_path / "run"), "corpus": {"text": [str(tmp_path / "no" / "*.txt")]}}
    failed(monosem("harvest", config=config), 2, "no file matches")


def test_an_empty_corpus(monosem, tiny_run, tmp_path):
    (tmp_path / "empty.txt").write_text("")
    config = tiny_run | {"output": str(tmp_path / "run"), "corpus": {"text": [str(tmp_path / "empty.txt")], "context_length": 32}}
    failed(monosem("harvest", config=config), 2, "does not fill one sequence")


def test_an_unknown_hookpoint_lists_the_near_ones(monosem, tiny_run, tmp_path):
    config = tiny_run | {"output": str(tmp_path / "run")}
    failed(monosem("harvest", "harvest.hookpoints=[blocks.0.mlp.hook_pst]", config=config), 2, "blocks.0.mlp.hook_pst", "blocks.0.mlp.hook_post")


def test_a_model_that_is_not_there(monosem, tiny_run, tmp_path):
    config = tiny_run | {"output": str(tmp_path / "run"), "subject": {"model": "./no-such-model"}}
    failed(monosem("harvest", config=config), 2, "no-such-model")


def test_a_model_name_without_a_network(monosem, tiny_run, tmp_path):
    config = tiny_run | {"output": str(tmp_path / "run"), "subject": {"model": "nobody/no-such-model"}}
    failed(monosem("harvest", config=config), 2, "nobody/no-such-model")


def test_a_run_directory_of_another_plan(monosem, tiny_run, tmp_path):
    config = tiny_run | {"output": str(tmp_path / "run")}
    assert monosem("harvest", config=config).returncode == 0
    failed(monosem("harvest", "harvest.sequences_per_shard=32", config=config), 2, "sequences_per_shard", "64", "32")
    failed(monosem("harvest", "corpus.context_length=16", config=config), 2, "corpus")


def test_a_stage_without_the_stage_before_it(monosem, tiny_run, tmp_path):
    config = tiny_run | {"output": str(tmp_path / "run")}
    failed(monosem("train", config=config), 2, "store", "harvest")
    failed(monosem("report", config=config), 2, "no finished stage")


def test_a_place_where_nothing_lies(monosem, tmp_path):
    failed(monosem("show", str(tmp_path)), 2, "holds no run, corpus, store or dictionary")


def test_a_full_disk(monosem, tiny_run, tmp_path):
    """A RAM disk of 1 MiB fills up during the harvest: the failure is said, and nothing half-written is taken for whole."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.system(f"mount -t tmpfs -o size=1m tmpfs {disk}") != 0:
        pytest.skip("needs the right to mount a RAM disk")
    try:
        failed(monosem("harvest", config=tiny_run | {"output": str(disk / "run")}), 1, "No space left on device")
        assert not (disk / "run" / "store" / "manifest.json").exists()
    finally:
        os.system(f"umount {disk}")
