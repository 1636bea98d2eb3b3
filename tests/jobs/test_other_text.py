"""`monosem evaluate evaluation.text=[…]` measures the dictionaries on text from elsewhere, with a corpus but without a harvest."""

import pytest

import jobs.stages
from jobs.config import RunConfig
from jobs.results import evaluation_lines
from sae.corpus.manifest import write_corpus_manifest
from sae.corpus.packing import TokenCorpus
from sae.storage import Place
from tests.planted_records import corpus_manifest, write_evaluation
from tests.sessions import HERE


@pytest.fixture
def other_text(tmp_path):
    """Forty documents in which no two are alike."""
    directory = tmp_path / "other"
    directory.mkdir()
    for number in range(40):
        (directory / f"{number}.txt").write_text(" ".join(f"item {number * 7 + index} follows {index}" for index in range(40)))
    return directory


@pytest.fixture
def measured(monkeypatch):
    """What `evaluate` is asked for; nothing is measured."""
    asked = []

    def note(config, subject, corpus_url, store_url, dictionary_urls, output_url, executor):
        asked.append((corpus_url, store_url, output_url, config.text))

    monkeypatch.setattr(jobs.stages, "evaluate", note)
    return asked


def test_a_corpus_is_made_for_it_and_the_store_stays(tmp_path, tiny_subject_directory, other_text, measured):
    values = {
        "output": str(tmp_path / "run"),
        "subject": {"model": str(tiny_subject_directory)},
        "corpus": {"context_length": 32, "held_out_fraction": 0.3},
    }
    config = RunConfig.parse(values | {"evaluation": {"text": [str(other_text)]}})
    jobs.stages.evaluate_stage(config, HERE)
    (own, store, output, corpus_text), (other, same_store, other_output, text) = measured
    assert own == f"{tmp_path}/run/corpus"
    assert output == f"{tmp_path}/run/evaluation"
    assert same_store == store == f"{tmp_path}/run/store"
    assert (corpus_text, text) == (None, [str(other_text)])
    assert other_output != output
    corpus = TokenCorpus(Place(other))
    assert corpus.manifest.config.text == [str(other_text)]
    assert corpus.manifest.config.held_out_fraction == 0.3
    assert corpus.num_sequences("train") == 1 < corpus.num_sequences("held_out")


def test_without_one_only_the_corpus_is_measured(tmp_path, measured):
    jobs.stages.evaluate_stage(RunConfig(output=str(tmp_path)), HERE)
    assert [each[0] for each in measured] == [f"{tmp_path}/corpus"]


def test_its_figures_are_printed_under_the_name_of_the_text(tmp_path):
    run = Place(tmp_path)
    write_evaluation(run, "topk", 0)
    write_evaluation(run.child("other_text", "0a1b2c3d"), "topk", 1)
    write_corpus_manifest(run.child("other_text", "0a1b2c3d", "corpus"), corpus_manifest(text=["poems.jsonl"]))
    lines = evaluation_lines(run)
    assert "on poems.jsonl:" in lines
    assert len([line for line in lines if line.startswith("topk")]) == 2
