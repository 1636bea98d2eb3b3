"""The search for the sparsity coefficient that gives a wanted L0."""

import math

import pytest
import torch
from stores import HOOKPOINT, planted_activations, planted_directions, write_store

from sae.errors import ConfigError, PlanError
from sae.parallel.workers import ALONE
from sae.storage import Place
from sae.training.config import DictionaryConfig, TargetL0Config, TrainingConfig
from sae.training.engine import train
from sae.training.target_l0 import around, crossing, measured_l0, search_coefficient

RELU = DictionaryConfig.parse({"name": "relu", "sae": {"architecture": "relu", "d_sae": 32, "l1_coefficient": 0.02}})


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def law(factor, exponent):
    """Pilot runs whose L0 is factor · coefficient^exponent, and a list of the rounds they were asked for."""
    rounds = []

    def pilots(dictionaries, directory, num_steps):
        rounds.append((directory, num_steps, [pilot.sae.l1_coefficient for pilot in dictionaries]))
        row = {"step": num_steps, "window_vectors": 10}
        return {pilot.name: [row | {"l0": factor * pilot.sae.l1_coefficient**exponent}] for pilot in dictionaries}

    return pilots, rounds


def search(place, pilots, l0, **changes):
    return search_coefficient(place, {"dictionary": "relu"}, RELU, TargetL0Config(l0=l0, **changes), 100, pilots, ALONE)


def test_where_log_l0_is_linear_in_the_log_coefficient_the_second_round_meets_it(tmp_path):
    """L0 = 0.4 / c: the first round stands at 0.02 · 4^(-1.5 … 1.5), the second around 0.4 / 30."""
    pilots, rounds = law(0.4, -1.0)
    assert search(Place(tmp_path), pilots, 30.0, tolerance=0.25) == pytest.approx(0.4 / 30, rel=0.25)
    assert [steps for _, steps, _ in rounds] == [25, 25]
    assert rounds[0][2] == pytest.approx([0.0025, 0.01, 0.04, 0.16])
    assert math.prod(rounds[1][2]) ** 0.25 == pytest.approx(0.4 / 30, rel=1e-4)


def test_a_far_away_target_is_walked_to(tmp_path):
    pilots, _ = law(0.4, -1.0)
    assert 0.4 / search(Place(tmp_path), pilots, 2000.0, max_rounds=6) == pytest.approx(2000.0, rel=0.1)


def test_what_was_found_is_written_and_not_searched_again(tmp_path):
    pilots, rounds = law(0.4, -1.0)
    found = search(Place(tmp_path), pilots, 30.0)
    written = Place(tmp_path).get_json("search.json")
    assert written["coefficient"] == found
    assert abs(written["l0"] / 30 - 1) <= 0.1
    assert [len(one) for one in written["rounds"]] == [4] * len(rounds)
    asked = len(rounds)
    assert search(Place(tmp_path), pilots, 30.0) == found
    assert len(rounds) == asked


def test_another_search_in_the_same_place_is_refused(tmp_path):
    pilots, _ = law(0.4, -1.0)
    search(Place(tmp_path), pilots, 30.0)
    with pytest.raises(PlanError, match="dictionary = 'relu', expected 'gated'"):
        search_coefficient(Place(tmp_path), {"dictionary": "gated"}, RELU, TargetL0Config(l0=30.0), 100, pilots, ALONE)


def test_a_search_that_finds_nothing_says_what_was_nearest(tmp_path):
    pilots, _ = law(7.0, 0.0)
    with pytest.raises(ConfigError, match=r"no l1_coefficient gave L0 30 within 10% in 2 rounds of pilots; the nearest, .* gave 7"):
        search(Place(tmp_path), pilots, 30.0, max_rounds=2)


def test_coefficients_stand_evenly_around_their_center():
    assert around(0.01, 4.0, 4) == pytest.approx([0.00125, 0.005, 0.02, 0.08])


def test_of_several_crossings_the_closest_pair_counts():
    assert crossing([(1.0, 100.0), (4.0, 20.0), (5.0, 40.0), (100.0, 1.0)], 30.0)[0] == pytest.approx(
        math.exp(math.log(4) + math.log(30 / 20) / math.log(40 / 20) * math.log(5 / 4))
    )


def test_l0_is_measured_over_the_last_fifth_of_a_run():
    rows = [{"step": step, "l0": l0, "window_vectors": size} for step, l0, size in [(80, 99.0, 10), (90, 4.0, 10), (100, 7.0, 5)]]
    assert measured_l0(rows, 100) == pytest.approx(5.0)


def test_on_planted_data_training_ends_within_the_tolerance(tmp_path):
    """The pilots are as long as the run, so that they speak for it."""
    store = write_store(Place(tmp_path / "store"), planted_activations(16_384, planted_directions(48, 16), mean_active=4.0))
    target = {"l0": 4.0, "tolerance": 0.1, "pilot_fraction": 1.0}
    entry = {**RELU.model_dump(mode="json"), "optimizer": {"learning_rate": 1e-2}, "target_l0": target}
    config = TrainingConfig.parse({"dictionaries": [entry], "batch_size": 128, "log_every": 10})
    foreign = "search/relu/round-0/relu-0/notes.txt"
    Place(tmp_path / "out").put(foreign, b"mine")
    result = train(store, HOOKPOINT, config, Place(tmp_path / "out"))["relu"]
    assert result["final"]["l0"] == pytest.approx(4.0, rel=0.15)  # of the last eight steps alone
    assert result["target_l0"]["wanted"] == 4.0
    plan = Place(tmp_path / "out").get_json("relu/plan.json")
    assert plan["dictionary"]["sae"]["l1_coefficient"] == result["target_l0"]["coefficient"] != RELU.sae.l1_coefficient
    assert Place(tmp_path / "out").list("search") == [foreign], "pilot runs are removed, and nothing that this tool did not write"
