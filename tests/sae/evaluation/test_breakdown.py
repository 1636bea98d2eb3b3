"""Where predictions are lost, restated by hand; and the worst of them, however the text was cut."""

import numpy as np
import pytest

from sae.evaluation.breakdown import LOSS_EDGES, Predictions, breakdown, loss_cells, worst_count, worst_predictions


def some_predictions(count=400, seed=0, first=0):
    draw = np.random.default_rng(seed)
    ids = first + np.arange(count)
    losses = {name: draw.gamma(2, 2, count) for name in ("clean", "spliced", "zero_ablated", "mean_ablated")}
    divergences = np.round(draw.gamma(1, 1, count), 1)  # many equal ones
    return Predictions(ids // 20, ids % 20, ids * 3, ids * 5, **losses, kl_divergence=divergences, agrees=draw.random(count) < 0.5)


def part_of(predictions, part):
    return Predictions(**{name: values[part] for name, values in vars(predictions).items()})


def test_means_of_each_position():
    given = some_predictions()
    columns = breakdown(given, given.positions, 21).columns()
    for position in (0, 7, 19):
        here = given.positions == position
        assert columns["predictions"][position].as_py() == here.sum()
        for name in ("clean", "spliced", "zero_ablated", "mean_ablated", "kl_divergence"):
            assert columns[name][position].as_py() == pytest.approx(getattr(given, name)[here].mean())
        assert columns["top1_agreement"][position].as_py() == given.agrees[here].mean()
        zero, spliced, clean = (getattr(given, name)[here].sum() for name in ("zero_ablated", "spliced", "clean"))
        expected = (zero - spliced) / (zero - clean) if zero > clean else None  # where ablation helps there is nothing to recover
        assert columns["loss_recovered_zero"][position].as_py() == (expected if expected is None else pytest.approx(expected))
    assert columns["clean"][20].as_py() is columns["loss_recovered_zero"][20].as_py() is None, "no prediction stands there"


def test_a_range_of_the_loss_holds_its_lower_edge():
    assert loss_cells(np.array([0.0, 0.05, 0.1, 0.3, 11.9, 12.0, 900.0])).tolist() == [0, 0, 1, 2, 10, 11, 11]
    assert len(LOSS_EDGES) == 13


def test_cells_of_parts_add_up():
    given = some_predictions()
    whole = breakdown(given, given.positions, 20)
    halves = [breakdown(part_of(given, part), given.positions[part], 20) for part in (slice(150), slice(150, None))]
    merged = halves[0].merge(halves[1])
    assert merged.predictions.tolist() == whole.predictions.tolist()
    np.testing.assert_allclose(merged.sums, whole.sums)


@pytest.mark.parametrize("cuts", [[400], [1, 399, 400], [100, 200, 300, 400]])
def test_the_worst_are_the_same_however_the_text_was_cut(cuts):
    given, kept = some_predictions(), 13
    total = None
    for first, last in zip([0, *cuts], cuts, strict=False):
        part = worst_predictions(part_of(given, slice(first, last))).limited(kept)
        total = part if total is None else part.merge(total)
    order = sorted(range(400), key=lambda index: (-given.kl_divergence[index], index))[:kept]
    assert total.sequence_ids.tolist() == given.sequence_ids[order].tolist()
    assert total.positions.tolist() == given.positions[order].tolist()
    assert total.next_token_ids.tolist() == given.next_token_ids[order].tolist()
    assert total.kl_divergence.tolist() == given.kl_divergence[order].tolist()


def test_figures_of_the_worst():
    given = some_predictions()
    worst = worst_predictions(given).limited(worst_count(400))
    figures = worst.figures(given.kl_divergence.sum())
    top = np.argsort(-given.kl_divergence, kind="stable")[:4]
    assert figures.num_predictions == 4
    assert figures.kl_threshold == given.kl_divergence[top].min()
    assert figures.share_of_kl == pytest.approx(given.kl_divergence[top].sum() / given.kl_divergence.sum())
    assert figures.loss_increase == pytest.approx((given.spliced - given.clean)[top].mean())


def test_one_percent_is_one_at_least_and_rounded_up():
    assert [worst_count(count) for count in (1, 99, 100, 101, 25_000)] == [1, 1, 1, 2, 250]
