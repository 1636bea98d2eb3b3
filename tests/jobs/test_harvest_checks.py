"""What a harvest needs is checked before Ray is started, and a refused command leaves nothing that refuses the corrected one."""

import pytest

import jobs.run
from jobs.config import RunConfig
from jobs.run import run_stages
from sae.errors import HookpointError, InputError


@pytest.fixture
def run(tmp_path, text_directory, tiny_subject_directory, monkeypatch):
    """Run the harvest with some values changed; a cluster must not be connected to."""

    def connect(*_):
        raise AssertionError("Ray was started")

    monkeypatch.setattr(jobs.run, "open_session", connect)
    (tmp_path / "a.jsonl").write_text('{"body": "text"}\n')

    def run(subject=None, corpus=None, harvest=None):
        values = {
            "output": str(tmp_path / "run"),
            "subject": {"model": str(tiny_subject_directory)} | (subject or {}),
            "corpus": {"text": [str(text_directory)], "context_length": 32} | (corpus or {}),
            "harvest": harvest or {},
        }
        return run_stages(RunConfig.parse(values), ("harvest",))

    return run


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"harvest": {"hookpoints": ["blocks.9.mlp.hook_post"]}}, HookpointError, "its blocks are 0 to 0"),
        ({"subject": {"model": "./nowhere"}}, InputError, "no model directory"),
        ({"corpus": {"context_length": 64}}, InputError, "takes at most 32 tokens"),
        ({"corpus": {"text": ["nowhere/*.txt"]}}, InputError, "no file matches"),
        ({"corpus": {"text": ["a.jsonl"]}}, InputError, "fields body"),
    ],
)
def test_a_refused_harvest_starts_no_cluster_and_leaves_no_trace(run, tmp_path, monkeypatch, changed, error, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        run(**changed)
    assert not (tmp_path / "run").exists()


def test_a_harvest_that_can_be_made_passes_the_checks(run):
    with pytest.raises(AssertionError, match="Ray was started"):
        run()
