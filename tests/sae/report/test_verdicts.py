"""A run that went badly is introduced by its faults, not by its best figure."""

import pytest
from planted_records import alter_summary, write_evaluation
from planted_run import VOCABULARY, write_run

from jobs.results import evaluation_lines
from sae.report.gather import gather
from sae.report.page import write_report
from sae.report.verdicts import verdicts
from sae.storage import Place
from tests.sae.report.test_report_page import text_of


@pytest.fixture
def run(tmp_path):
    return write_run(Place(tmp_path / "run"), num_features=4)


def test_a_run_without_faults_lacks_at_most_a_control(run):
    alter_summary(run, "topk", explanation_score_median=0.9, explanation_score_interval=(0.89, 0.91), num_scored=4, num_live=4)
    alter_summary(run, "relu", explanation_score_median=0.9, explanation_score_interval=(0.89, 0.91), num_scored=4, num_live=4)
    found = verdicts(gather(run))
    assert [each[:46] for each in found] == ["There is no control on a model with shuffled w"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fvu": 1.345}, "topk reconstructs worse than the mean activation alone would (FVU 1.345, above 1)"),
        ({"l0": 1552.0}, "topk is not sparse: 1,552 of its 4,096 features fire on a token"),
        ({"loss_recovered_mean_interval": (-3.06, 4.52)}, "topk (mean ablation) is known only to lie between -306.00 % and 452.00 %"),
        (
            {
                "loss_recovered_mean": None,
                "loss_recovered_mean_interval": None,
                "not_defined": {"loss_recovered_mean": "mean ablation costs nothing"},
            },
            "Loss recovered by topk (mean ablation) is not given: mean ablation costs nothing",
        ),
    ],
)
def test_a_bad_dictionary_is_named_before_its_figures(run, changes, said):
    write_evaluation(run, "topk", 1, **changes)
    assert [each for each in verdicts(gather(run)) if said.replace("-", "") in each.replace("−", "").replace("-", "")]


def test_zero_ablation_that_costs_more_than_a_guess_is_said_to_flatter(run):
    """As on Gemma 3 270M: 81 % of the loss of a model that is worse than chance, where the mean ablation gives 20 %."""
    broken = {"cross_entropy": {"clean": 3.39, "spliced": 7.2, "mean_ablated": 8.13, "zero_ablated": 23.5}, "vocabulary_size": 262_144}
    write_evaluation(run, "topk", 1, **broken, loss_recovered_zero=0.811, loss_recovered_mean=0.196)
    [said] = [each for each in verdicts(gather(run)) if "looks better than it is" in each]
    assert said == (
        "Loss recovered by topk (zero ablation) looks better than it is: zero ablation costs 23.500 nats, more than a uniform guess (12.477). "
        "Quote loss recovered with mean ablation instead."
    )
    write_evaluation(run, "topk", 1, vocabulary_size=4096)  # its zero ablation costs 4.61 nats, a guess 8.32
    assert not [each for each in verdicts(gather(run)) if "looks better than it is" in each]


def test_explanations_as_good_as_a_controls_are_said_to_be_no_better(run):
    alter_summary(run, "topk", explanation_score_median=0.686, explanation_score_interval=(0.66, 0.71))
    alter_summary(run, "neurons", explanation_score_median=0.678, explanation_score_interval=(0.65, 0.70))
    found = verdicts(gather(run))
    assert any(each.startswith("Explanations of topk are no better than those of neurons") for each in found)


def test_scores_of_few_features_are_said_to_be_of_few(run):
    alter_summary(run, "topk", num_live=100, num_scored=38)
    assert any("Explanation scores of topk cover 38.0 % of its live features (38 of 100)" in each for each in verdicts(gather(run)))


def test_report_and_table_begin_with_them(run):
    write_evaluation(run, "topk", 1, fvu=1.345)
    lines = evaluation_lines(run)
    assert lines[0].startswith("WARNING: ")
    assert lines.index("") < next(number for number, line in enumerate(lines) if line.startswith("dictionary"))
    write_report(run, token_texts=VOCABULARY)
    text = text_of(run.get("report.html").decode())
    assert text.index("reconstructs worse than the mean") < text.index("recovers")
