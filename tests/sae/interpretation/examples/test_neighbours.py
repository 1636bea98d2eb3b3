"""Neighbours: which features fire together or point the same way, counted run by run, and where they fire strongest."""

import numpy as np
import pytest
import torch
from scipy.sparse import csc_array

from sae.interpretation.examples import neighbours
from sae.interpretation.examples.firings import write_firings
from sae.interpretation.examples.neighbours import NUM_NEIGHBOURS, PLACES, StrongestPlaces, co_firing, find_neighbours, hard_rows, similar_directions
from sae.storage import Place

RUNS, RUN_TOKENS, FEATURES = 3, 200, 12


@pytest.fixture(scope="module")
def readable():
    return np.arange(RUNS * RUN_TOKENS) % 50 > 0


@pytest.fixture(scope="module", params=[0.01, 0.4], ids=["rare", "dense"])
def values(request, readable):
    """Activations `[tokens, features]`; feature 1 fires wherever feature 0 does, feature 2 nowhere."""
    rng = np.random.default_rng(0)
    values = rng.random((len(readable), FEATURES)) * (rng.random((len(readable), FEATURES)) < request.param)
    values[::40, 0] = values[1::40, 0] = 1.5
    values[:, 1] = 2 * values[:, 0]
    values[:, 2] = 0
    return (values * readable[:, None]).astype(np.float32)


@pytest.fixture(scope="module")
def written(values, readable, tmp_path_factory):
    place, keys = Place(tmp_path_factory.mktemp("firings")), []
    for run in range(RUNS):
        span = slice(run * RUN_TOKENS, (run + 1) * RUN_TOKENS)
        positions = np.flatnonzero(readable[span])
        write_firings(place, f"run{run}", [csc_array(values[span][positions])], positions + run * RUN_TOKENS)
        keys.append(f"run{run}")
    return place, keys


class Directions:
    """A source of known directions."""

    def __init__(self, directions):
        self._directions = directions

    def directions(self, low, high):
        return self._directions[low:high]


def test_phi_is_the_correlation_of_firing_or_not(written, values, readable):
    place, keys = written
    rows, phi = co_firing(place, keys, (0, 4), readable, RUN_TOKENS)
    fires = values[readable] > 0
    for row in (0, 1, 3):
        expected = {other: np.corrcoef(fires[:, row], fires[:, other])[0, 1] for other in range(FEATURES) if other not in (row, 2)}
        found = {other: value for other, value in zip(rows[row].tolist(), phi[row].tolist(), strict=True) if other >= 0}
        best = sorted((other for other in expected if expected[other] > 1e-9), key=lambda other: -expected[other])[:NUM_NEIGHBOURS]
        assert list(found) == best
        assert list(found.values()) == pytest.approx([expected[other] for other in best])
    assert rows[0, 0] == 1
    assert phi[0, 0] == pytest.approx(1)
    assert set(rows[2]) == {-1}


def test_of_a_source_that_fires_everywhere_some_runs_are_counted(written, values, readable, monkeypatch):
    place, keys = written
    monkeypatch.setattr(neighbours, "COUNTED_FIRINGS", 1)
    _, phi = co_firing(place, keys, (3, 4), readable, RUN_TOKENS)
    fires = (values[:RUN_TOKENS] > 0)[readable[:RUN_TOKENS]]
    with np.errstate(invalid="ignore"):
        expected = [np.corrcoef(fires[:, 3], fires[:, other])[0, 1] for other in range(FEATURES) if other != 3]
    assert phi[0, 0] == pytest.approx(max(0.0, np.nanmax(expected)))


def test_similar_directions_are_those_of_largest_cosine_however_they_are_cut(monkeypatch):
    directions = torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
    cosines = torch.nn.functional.normalize(directions) @ torch.nn.functional.normalize(directions).T
    cosines.fill_diagonal_(-1)
    examined = np.arange(0, 30, 2)
    inner = cosines[examined][:, examined]
    whole = similar_directions(Directions(directions), examined)
    monkeypatch.setattr(neighbours, "DIRECTION_ROWS", 4)
    for table in (whole, similar_directions(Directions(directions), examined)):
        found = np.array(table["rows"].to_pylist())
        for row in range(len(examined)):
            best = inner[row].argsort(descending=True)[: (inner[row] > 0).sum()][:NUM_NEIGHBOURS].tolist()
            assert [each for each in found[row].tolist() if each >= 0] == best


def test_the_strongest_places_are_those_of_the_whole_text(written, values):
    place, keys = written
    strongest = StrongestPlaces(place, keys)
    strongest.of(np.array([0, 3]))
    found = strongest.of(np.array([0, 2, 5]))
    assert list(found) == [0, 2, 5]
    for row, places in found.items():
        order = np.lexsort((np.arange(len(values)), -values[:, row]))[:PLACES]
        assert places.tolist() == [position for position in order.tolist() if values[position, row] > 0]


def test_hard_negatives_come_from_both_sorts_of_neighbours_in_turn(written, values, readable):
    place, keys = written
    directions = torch.eye(FEATURES)
    directions[3] = directions[0] + 0.1 * directions[5]
    similar = similar_directions(Directions(directions), np.arange(FEATURES))
    found = find_neighbours((StrongestPlaces(place, keys), StrongestPlaces(place, keys[:1])), (0, 4), similar, readable, RUN_TOKENS)
    rows = hard_rows(found.co_firing[0][0], found.similar[0][0])
    assert rows[:2] == [1, 3]
    explanation, scoring = found.candidates(0)
    strongest = StrongestPlaces(place, keys).of(np.array([1, 3]))
    assert explanation[:2].tolist() == [strongest[1][0], strongest[3][0]]
    assert (scoring < RUN_TOKENS).all()
    columns = found.columns(np.arange(FEATURES) * 10)
    assert columns["co_firing"].to_pylist()[0][0]["feature"] == 10
    assert columns["similar"].to_pylist()[0] == [{"feature": 30, "cosine": pytest.approx(1 / np.sqrt(1.01))}]
    assert found.columns(np.arange(FEATURES))["co_firing"].to_pylist()[2] == []
