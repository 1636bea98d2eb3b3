"""`summary.json`: the figures of a run for programs."""

import pytest
from planted_records import write_evaluation
from planted_run import write_dictionary

from sae.report.summary import summarise
from sae.storage import Place


def test_holds_the_figures_of_every_dictionary_and_baseline(run):
    summary = summarise(run, wall_seconds=12.5, peak_rss_bytes=1024, versions={"torch": "2.13.0"}, seeds={"training": 3})
    topk, relu = summary["dictionaries"]
    assert (relu["name"], topk["name"]) == ("relu", "topk")  # in the order of the configuration
    assert (topk["architecture"], topk["d_in"], topk["d_sae"]) == ("topk", 512, 4096)
    assert topk["loss_recovered_zero"] == pytest.approx((4.61 - 3.22) / (4.61 - 3.18))
    assert topk["loss_recovered_mean"] == pytest.approx((4.02 - 3.22) / (4.02 - 3.18))
    assert (topk["l0"], topk["fvu"], topk["dead_fraction"]) == (20.0, 0.048, 0.0119)
    assert topk["explanation_score_median"] > summary["baselines"]["neurons"]["explanation_score_median"]
    assert summary["baselines"].keys() == {"neurons", "random_directions"}
    assert len(summary["baselines"]["neurons"]["explanation_score_interval"]) == 2
    assert (summary["wall_seconds"], summary["peak_rss_bytes"]) == (12.5, 1024)
    assert (summary["versions"], summary["seeds"]) == ({"torch": "2.13.0"}, {"training": 3})


def test_figures_of_stages_that_have_not_run_are_null(tmp_path):
    run = Place(tmp_path)
    write_dictionary(run.child("dictionaries", "relu"), "relu", 0)
    (relu,) = summarise(run)["dictionaries"]
    assert relu["loss_recovered_zero"] is None
    assert relu["explanation_score_median"] is None
    write_evaluation(run, "relu", 0)
    assert summarise(run)["dictionaries"][0]["loss_recovered_zero"] == pytest.approx((4.61 - 3.41) / (4.61 - 3.18))


def test_time_memory_versions_and_seeds_are_those_of_the_recorded_stages(run):
    summary = summarise(run)
    assert summary["wall_seconds"] == pytest.approx(3 * 150.4)
    assert summary["peak_rss_bytes"] == 3 * 2**30
    assert (summary["versions"], summary["seeds"]) == ({"torch": "2.13.0"}, {"training": 7})
