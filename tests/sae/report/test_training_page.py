"""The training section: a frontier over all dictionaries, curves, and what there is of each dictionary alone."""

import itertools
import re

import numpy as np
import pytest
from planted_records import write_evaluation
from planted_run import log_row, put_lines, write_dictionary

from sae.errors import InputError
from sae.report.gather import gather
from sae.report.page import write_report
from sae.report.training_charts import MAX_POINTS, resampling_marks, training_page
from sae.report.training_plots import Point, Term, frontier, loss_terms
from sae.storage import Place


def run_of(place, architectures):
    """A run with one evaluated dictionary for each of `architectures`, each sparser than the one before."""
    for number, architecture in enumerate(architectures):
        name = f"{architecture}-{number:02d}"
        write_dictionary(place.child("dictionaries", name), name, number % 2, architecture)
        write_evaluation(place, name, number % 2, architecture=architecture, l0=64 / 1.3**number, fvu=0.05 * 1.1**number)
    return gather(place)


def texts(svg):
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


@pytest.fixture(scope="module")
def two(run):
    return training_page(gather(run))


def test_names_every_dictionary_on_the_frontier_of_fvu_and_of_loss_recovered(two):
    assert [drawing.title for drawing in two.frontier] == ["L0 against FVU.", "L0 against loss recovered."]
    for drawing in two.frontier:
        assert {"relu", "topk", "L0 (features that fire on a token, mean)"} <= set(texts(drawing.svg))


def test_every_axis_says_what_it_shows_and_in_which_unit(two):
    shown = [set(texts(drawing.svg)) for own in two.own for drawing in own.drawings] + [set(texts(drawing.svg)) for drawing in two.curves]
    assert all("vectors seen" in each for each in shown)
    assert "milliseconds a step" in texts(two.times[0].svg)
    assert any("density within a log row" in each for each in shown)


def test_shows_the_loss_terms_of_each_dictionary_without_their_total(two):
    (relu, _) = sorted(two.own, key=lambda own: own.name)
    terms = next(drawing for drawing in relu.drawings if drawing.title == "Loss terms.")
    assert {"reconstruction", "sparsity"} <= set(texts(terms.svg))
    assert "total" not in texts(terms.svg)


def test_names_of_lines_that_end_together_do_not_lie_on_one_another():
    terms = [Term(name, [1.0, 2.0], [5.0, end]) for name, end in (("reconstruction", 1.0), ("sparsity", 1.01), ("auxiliary", 0.0))]
    heights = sorted(float(height) for height, name in re.findall(r'<text[^>]* y="([\d.]+)">([a-z]+)</text>', loss_terms("terms", 0, terms, [])))
    assert len(heights) == 3
    assert min(upper - lower for lower, upper in itertools.pairwise(heights)) > 8


def test_dictionaries_of_nearly_one_l0_are_not_pulled_apart():
    close = frontier("close", [Point("a", "a", 0, 19.94, 0.2), Point("b", "b", 1, 20.0, 0.1)], "FVU")
    ticks = [float(text) for text in texts(close) if re.fullmatch(r"\d\d\.?\d*", text)]
    assert max(ticks) - min(ticks) > 1


def test_marks_resamplings_with_how_many_stayed_alive(run, two):
    relu = next(each for each in gather(run).dictionaries if each.name == "relu")
    assert [mark.text for mark in resampling_marks(relu)] == ["307/310", "39/42"]
    (own,) = (own for own in two.own if own.name == "relu")
    assert all({"307/310", "39/42"} <= set(texts(drawing.svg)) for drawing in own.drawings)


def test_a_resampling_whose_outcome_is_not_known_yet_shows_how_many_came(tmp_path):
    place = Place(tmp_path)
    write_dictionary(place.child("dictionaries", "relu"), "relu", 0)
    put_lines(
        place.child("dictionaries", "relu"), "events.jsonl", [{"event": "resampled", "step": 147, "vectors": 301_056, "dead": 310, "resampled": 310}]
    )
    place.delete("dictionaries/relu/result.json")  # an unfinished training, whose log nothing covers
    assert [mark.text for mark in resampling_marks(gather(place).dictionaries[0])] == ["310"]


def test_without_an_evaluation_the_frontier_is_that_of_training_and_says_so(tmp_path):
    place = Place(tmp_path)
    write_dictionary(place.child("dictionaries", "relu"), "relu", 0)
    (drawing,) = training_page(gather(place)).frontier
    assert "the last vectors of training, for there is no evaluation yet" in drawing.caption


def test_a_step_is_split_into_computation_exchange_and_waiting(run):
    page = training_page(gather(run))
    assert "26" in texts(page.times[0].svg)  # 21 ms of a step, of which 2 of exchange, after 5 of waiting


def test_a_log_of_another_version_is_refused(tmp_path):
    row = {key: value for key, value in log_row(1).items() if key != "density_histogram"}
    put_lines(Place(tmp_path).child("dictionaries", "old"), "training.jsonl", [row])
    with pytest.raises(InputError, match="old/training.jsonl, row 1 is not what this version writes: field density_histogram is missing"):
        gather(Place(tmp_path))


def test_many_dictionaries_are_coloured_by_architecture_and_folded_away(tmp_path):
    architectures = ["relu", "topk", "gated"] * 3
    page = training_page(run_of(Place(tmp_path), architectures))
    assert [(entry.name, entry.color) for entry in page.legend] == [("gated (3)", 0), ("relu (3)", 1), ("topk (3)", 2)]
    assert page.folded
    assert len(page.own) == 9
    write_report(Place(tmp_path))
    html = Place(tmp_path).get("report.html").decode()
    assert html.count('<details class="own">') == 18  # panels of training, and worst predictions
    assert "events</summary>" not in html  # ten events stand open; more are folded


def test_a_long_log_is_drawn_with_as_many_points_as_can_be_told_apart(tmp_path):
    place = Place(tmp_path)
    rows = [log_row(step, fvu=0.5 + 0.1 * np.sin(step)) for step in range(1, 5001)]
    put_lines(place.child("dictionaries", "long"), "training.jsonl", rows)
    (fvu,) = (drawing for drawing in training_page(gather(place)).curves if drawing.title == "FVU.")
    line = max(re.findall(r' d="(M[^"]*)"', fvu.svg), key=len)
    assert line.count("L") <= MAX_POINTS
