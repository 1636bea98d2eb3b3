"""Figures are printed as soon as they are measured, and `monosem show` shows those that the report does not have yet."""

import pytest

from jobs.results import evaluation_lines, explanation_lines, interpretation_lines, latest_lines
from jobs.show import show_run
from sae.report.gather import gather
from sae.report.summary import summarise
from sae.storage import Place
from tests.planted_records import alter_summary, write_evaluation
from tests.planted_run import write_run, write_words


@pytest.fixture
def run(tmp_path):
    return write_run(Place(tmp_path / "run"), 8)


def test_an_evaluation_ends_with_its_figures_before_there_is_a_report(run):
    assert not run.exists("summary.json")
    table = "\n".join(evaluation_lines(run))
    assert "loss recovered (zero)" in table
    assert table.index("topk") < table.index("relu")
    assert f"{run.get_json('evaluation/topk.json')['fvu']:.3f}" in table


def test_a_run_shows_its_figures_before_there_is_a_report(run):
    assert "loss recovered (zero)" in show_run(run)


def test_a_run_shows_what_was_measured_since_the_report_and_says_so(run):
    run.put_sealed("summary.json", summarise(run) | {"wall_seconds": 1.0, "peak_rss_bytes": 1})
    assert "the report lacks" not in show_run(run)
    assert "report: " in show_run(run)
    write_evaluation(run, "imported", 0)
    lines = latest_lines(run)
    assert any(line.startswith("imported") for line in lines)
    assert lines[-1] == "the report lacks imported: run `monosem report` again"


def test_interpretation_in_words_ends_with_explanations_questions_tokens_and_money(run):
    assert explanation_lines(run) == []
    write_words(run, "topk", 8)
    [line, unread, end] = explanation_lines(run)
    words = run.get_sealed("interpretation/topk/summary.json")["language_model"]
    explained, wanted = (words["explainers"]["highlights"][name] for name in ("num_explained", "num_features"))
    assert line == f"language model: {explained} of {wanted} explanations, 500 requests, 90,000 tokens sent and 10,000 received, $0.25"
    assert unread == "20 of 1,000 answers could not be read; they are left out of the scores"
    assert end == ""
    assert interpretation_lines(run)[-3:] == [line, unread, end]


def test_a_language_model_that_explained_little_is_warned_of_and_small_costs_are_not_shown_as_none(run):
    write_words(run, "topk", 8)
    words = run.get_sealed("interpretation/topk/summary.json")["language_model"]
    words["explainers"]["highlights"] |= {"num_explained": 0}
    alter_summary(run, "topk", language_model=words | {"cost": 0.0015, "num_unread": 0})
    [line, warning, _] = explanation_lines(run)
    wanted = words["explainers"]["highlights"]["num_features"]
    assert f"0 of {wanted} explanations" in line
    assert not line.endswith("$0.00")
    assert warning.startswith(f"WARNING: {wanted} of {wanted} explanations could not be read")


def test_only_an_mlp_has_neurons(run):
    assert any(line.startswith("neurons") for line in latest_lines(run))
    for source in ("neurons", "random_directions", "relu", "topk"):
        alter_summary(run, source, hookpoint="blocks.0.hook_resid_post")
    shown = "\n".join(latest_lines(run))
    assert "coordinates" in shown
    assert "neurons" not in shown
    sources = gather(run).sources
    assert [source.label for source in sources if source.name == "neurons"] == ["coordinates"]
    assert summarise(run)["baselines"].keys() == {"neurons", "random_directions"}, "records keep the name"


def test_nothing_is_shown_before_an_evaluation(tmp_path):
    assert evaluation_lines(Place(tmp_path)) == latest_lines(Place(tmp_path)) == []


def test_stages_stand_in_their_order(run):
    cost = {"seconds": 1.0, "peak_rss_bytes": 2**30, "finished": True}
    stages = dict.fromkeys(("evaluate", "harvest", "interpret", "report", "train"), cost)
    run.put_sealed("stages.json", {"stages": stages, "versions": {}, "seeds": {}, "machine": None})
    shown = show_run(run)
    positions = [shown.index(f"  {name} ") for name in ("harvest", "train", "evaluate", "interpret", "report")]
    assert positions == sorted(positions)
