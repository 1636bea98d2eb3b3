"""Figures of predictions from their sums."""

import numpy as np
import pytest
import torch

from sae.evaluation.accumulators import SequenceLosses
from sae.evaluation.breakdown import Predictions, breakdown, loss_cells, worst_predictions
from sae.evaluation.downstream import DownstreamSums, kl_histogram, loss_recovered


def some_sums(ids, divergences):
    """20 predictions a sequence, where there are as many divergences."""
    ids, divergences = np.array(ids), divergences.double().numpy()
    draw = np.random.default_rng(0).random((4, 100))[:, ids]
    losses = SequenceLosses(
        ids, np.full(len(ids), 20), clean=40 + draw[0], spliced=50 + draw[1], zero_ablated=90 + draw[2], mean_ablated=70 + draw[3]
    )
    sequences = np.repeat(ids, len(divergences) // len(ids))
    positions, clean = np.arange(len(divergences)) % 20, 5 * np.ones(len(divergences))
    each = Predictions(sequences, positions, positions, positions, clean, clean + divergences, clean, clean, divergences, clean > 0)
    return DownstreamSums(
        losses, float(divergences.sum()), kl_histogram(divergences), 10 * float(divergences.sum()), agreeing=15 * len(ids),
        by_position=breakdown(each, positions, 20), by_loss=breakdown(each, loss_cells(clean), 12), worst=worst_predictions(each),
    )  # fmt: skip


def test_figures_of_planted_sums():
    divergences = torch.logspace(-6, 1, 2000)
    sums = some_sums(range(100), divergences)
    figures, losses = sums.figures(seed=0), sums.losses
    assert (figures.num_sequences, figures.num_predictions) == (100, 2000)
    assert figures.cross_entropy.clean == pytest.approx(losses.clean.sum() / 2000)
    assert figures.perplexity.spliced == pytest.approx(np.exp(losses.spliced.sum() / 2000))
    expected = (losses.mean_ablated.sum() - losses.spliced.sum()) / (losses.mean_ablated.sum() - losses.clean.sum())
    assert figures.loss_recovered_mean == pytest.approx(expected)
    assert figures.top1_agreement == 0.75
    assert figures.kl_divergence.mean == pytest.approx(divergences.mean().item(), rel=1e-5)
    assert figures.kl_divergence.score == pytest.approx(0.9)
    for name, quantile in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
        assert figures.kl_divergence.quantiles[name] == pytest.approx(np.quantile(divergences.numpy(), quantile), rel=0.03)


@pytest.mark.parametrize("cuts", [[100], [60, 100], [10, 35, 100]])
def test_merged_parts_give_the_figures_of_the_whole(cuts):
    divergences = torch.logspace(-6, 1, 100)
    parts = [some_sums(range(first, last), divergences[first:last]) for first, last in zip([0, *cuts], cuts, strict=False)]
    total = parts[-1]
    for part in parts[:-1]:
        total = total.merge(part)
    whole = (
        some_sums(range(100), divergences)
        .figures(seed=3)
        .model_dump(exclude={"kl_divergence": {"mean", "zero_ablated", "score"}, "worst_percent": {"share_of_kl"}})
    )
    assert total.figures(seed=3).model_dump(exclude={"kl_divergence": {"mean", "zero_ablated", "score"}, "worst_percent": {"share_of_kl"}}) == whole


def test_no_divergence_at_all_has_quantiles_of_zero():
    assert some_sums(range(2), torch.zeros(40)).figures(seed=0).kl_divergence.quantiles == {"p50": 0, "p90": 0, "p99": 0}


def test_loss_recovered_of_the_clean_and_of_the_ablated_model():
    clean, ablated = np.array([1.0, 2.0, 4.0]), np.array([3.0, 5.0, 5.0])
    assert loss_recovered(clean, clean, ablated, seed=0) == (1, (1, 1))
    assert loss_recovered(clean, ablated, ablated, seed=0) == (0, (0, 0))


def test_loss_recovered_is_undefined_where_ablation_does_nothing():
    assert loss_recovered(np.ones(3), np.full(3, 2.0), np.ones(3), seed=0) == (None, None)


def test_the_interval_is_seeded_and_covers_the_truth_as_often_as_it_says():
    draw = np.random.default_rng(0)
    covered = 0
    for trial in range(40):
        gain = draw.gamma(2, 1, 60)
        value, (low, high) = loss_recovered(np.zeros(60), 0.3 * gain + 0.1 * draw.normal(size=60), gain, trial)
        assert low < value < high
        covered += low <= 0.7 <= high
    assert covered >= 33
    assert loss_recovered(np.zeros(60), 0.3 * gain, gain**2, 1) == loss_recovered(np.zeros(60), 0.3 * gain, gain**2, 1)
