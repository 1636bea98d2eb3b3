"""The report shows what the stages measured, or names the file and field that are not what they wrote."""

import shutil

import pytest
from altered import GONE, alterations, raw_alterations, sealed_again
from planted_records import alter_summary, write_evaluation
from planted_run import VOCABULARY, write_concepts, write_dictionary, write_interpretation, write_run, write_words

from jobs.show import show_run
from sae.errors import CorruptObjectError, InputError, MonosemError, PlanError
from sae.interpretation.comparison import ComparisonRecord
from sae.records import digests_of, put_record
from sae.report import numbers
from sae.report.figures import GROUPS, Figure
from sae.report.gather import TrainedDictionary, gather, value_at
from sae.report.page import write_report
from sae.report.summary import summarise
from sae.storage import Place

SEALED = (
    "dictionaries/topk/config.json", "dictionaries/topk/result.json", "evaluation/topk.json", "interpretation/topk/summary.json",
    "interpretation/topk/plan.json", "interpretation/comparison.json", "concepts/concepts.json", "stages.json", "config.json",
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A small run with all that a report reads."""
    run = write_run(Place(tmp_path_factory.mktemp("whole") / "run"), num_features=4)
    write_words(run, "topk", 4)
    write_concepts(run)
    place = run.child("interpretation")
    tables = {
        name: digests_of(place.child(name), ["features.parquet"])["features.parquet"] for name in ("topk", "relu", "neurons", "random_directions")
    }
    row = {
        "dictionary": "topk",
        "source": "neurons",
        "features": "all",
        "num": [3, 3],
        "difference": 0.2,
        "interval": [0.1, 0.3],
        "within_noise": False,
    }
    put_record(place, "comparison.json", ComparisonRecord.parse({"rows": [row], "tables": tables}))
    return run


@pytest.fixture
def run(whole, tmp_path):
    return Place(shutil.copytree(whole.local_path(), tmp_path / "run"))


def refused(call, *arguments):
    with pytest.raises(MonosemError) as error:
        call(*arguments)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 900
    return str(error.value)


def test_a_whole_run_is_shown(run):
    write_report(run, token_texts=VOCABULARY)
    assert "explanation score of topk, all features: +0.200" in show_run(run) or run.exists("report.html")


@pytest.mark.parametrize("key", SEALED)
def test_no_field_changes_unnoticed(run, key):
    """Every value of every record, one at a time, with the digest left as it was: all are refused, and the file is named."""
    data, value = run.get(key), run.get_json(key)
    for number, (path, altered) in enumerate(alterations(value, most=1)):
        run.put_json(key, altered)
        assert key in refused(run.get_sealed, key), path
        if number % 100 == 0:
            assert key in refused(gather, run), path
    for text in raw_alterations(data):
        run.put(key, text.encode())
        assert key in refused(gather, run)


@pytest.mark.parametrize("key", SEALED[1:-1])
def test_fields_of_another_kind_are_refused_even_with_a_new_digest(run, key):
    """Fields that are gone, and values that no field takes; what is free text or a free name may change."""
    value = run.get_json(key)
    for number, (path, altered) in enumerate(alterations(value, others=(GONE, {"<script>": []}), most=1)):
        free = any(f"{part}/" in path for part in ("versions", "seeds", "not_scored", "score_quantiles", "settings", "prompts", "outcomes", "tables"))
        free = free or any(f"{part}/" in path for part in ("stages", "losses", "explainers", "not_explained", "quantiles", "dictionary_digests"))
        if path != "digest" and not free and not path.split("/")[-1].isdigit() and number % 4 == 0:
            sealed_again(run, key, altered)
            assert key.rpartition("/")[2] in refused(gather, run), path


def test_records_of_another_source_are_not_taken_for_this_one(run):
    for name in ("summary.json", "plan.json"):
        other = run.get(f"interpretation/neurons/{name}")
        own = run.get(f"interpretation/random_directions/{name}")
        run.put(f"interpretation/random_directions/{name}", other)
        assert f"random_directions/{name}" in refused(gather, run)
        run.put(f"interpretation/random_directions/{name}", own)
    run.put("evaluation/topk.json", run.get("evaluation/relu.json"))
    assert "topk.json is of 'relu', and its place is that of 'topk'" in refused(gather, run)


def test_figures_of_another_dictionary_are_refused(run):
    write_dictionary(run.child("dictionaries", "topk"), "topk", 0)  # trained anew: other logs, the same weights
    gather(run)
    place = run.child("dictionaries", "topk")
    for key in ("config.json", "result.json", "training.jsonl", "events.jsonl"):
        place.put(key, run.get(f"dictionaries/relu/{key}"))
    assert "result.json is of 'relu', and its place is that of 'topk'" in refused(gather, run)
    place.delete("result.json")
    with pytest.raises(CorruptObjectError, match="topk.json was made of a dictionary with the digest .*, and dictionaries/topk has"):
        gather(run)
    run.delete("evaluation/topk.json")
    with pytest.raises(CorruptObjectError, match="plan.json is of a dictionary with the digest .*, and 'topk' has"):
        gather(run)


def test_a_comparison_of_other_tables_is_refused(run):
    write_interpretation(run, "topk", 0.3, 4)
    with pytest.raises(CorruptObjectError, match="comparison.json compares another topk"):
        gather(run)


def test_a_dictionary_of_another_subject_is_refused(run):
    place = run.child("dictionaries", "topk")
    config = place.get_sealed("config.json")
    place.put_sealed("config.json", config | {"metadata": config["metadata"] | {"subject_digest": "f" * 64}})
    with pytest.raises(PlanError, match="subject 'ffffffffffff', and .*store was made with 'aaaaaaaaaaaa'"):
        gather(run)


@pytest.mark.parametrize(
    "key", ["interpretation/topk/features.parquet", "interpretation/topk/examples.parquet", "interpretation/topk/llm_explanations.parquet"]
)
def test_tables_are_covered_by_their_summary(run, key):
    run.put(key, run.get(key)[:-1] + b"x")
    assert f"{key} has the digest" in refused(write_report, run)


@pytest.mark.parametrize(("data", "said"), [(b"PAR1 no more", "is not a whole table"), (b"", "is not a whole table")])
def test_a_table_that_is_none_is_named_even_with_a_new_digest(run, data, said):
    run.put("interpretation/topk/features.parquet", data)
    alter_summary(run, "topk")
    assert f"features.parquet {said}" in refused(gather, run)


def test_a_figure_that_was_renamed_is_no_dash(run, monkeypatch):
    """In the code of the report, or in what the evaluation writes."""
    renamed = {title: tuple(Figure(each.name, f"{each.path}_at_1", each.style, each.says) for each in figures) for title, figures in GROUPS.items()}
    monkeypatch.setattr(numbers, "GROUPS", renamed)
    assert "has no figure 'loss_recovered_zero_at_1'" in refused(write_report, run)
    monkeypatch.undo()
    report = run.get_sealed("evaluation/topk.json")
    report["top_1_agreement"] = report.pop("top1_agreement")
    run.put_sealed("evaluation/topk.json", report)
    assert "top1_agreement is missing" in refused(gather, run)


def test_a_figure_is_a_dash_only_where_it_is_null(run):
    write_evaluation(run, "topk", 1, fvu=None, worst_percent=None)
    [topk] = [each for each in gather(run).dictionaries if each.name == "topk"]
    assert value_at(topk.evaluation, "fvu") is None
    assert value_at(topk.evaluation, "worst_percent.share_of_kl") is None
    assert value_at(None, "fvu") is None
    with pytest.raises(InputError, match="no figure 'kl_divergence.median'"):
        value_at(topk.evaluation, "kl_divergence.median")
    assert isinstance(topk, TrainedDictionary)


def test_the_summary_of_a_run_is_proved_where_it_is_shown(run):
    run.put_sealed("summary.json", summarise(run))
    show_run(run)
    value = run.get_json("summary.json")
    for number, (_, altered) in enumerate(alterations(value, others=(GONE, None, "x", -5), most=1)):
        if number % 5 == 0:
            run.put_json("summary.json", altered)
            assert "summary.json" in refused(show_run, run)
