"""Detectors against planted units and against a search by brute force."""

import numpy as np
import pytest
from scipy.sparse import csc_array

from sae.concepts.detectors import best_single, feature_units, neuron_units, sparse_probes

TOKENS, LABELS = 600, 3


@pytest.fixture
def label_ids():
    return np.random.default_rng(0).integers(0, LABELS, TOKENS)


@pytest.fixture
def selection():
    return np.arange(TOKENS) % 2 == 0


def f1(detected, present):
    return 2 * (detected & present).sum() / (detected.sum() + present.sum())


def test_the_best_unit_and_threshold_are_those_of_a_search_over_all(label_ids, selection):
    draw = np.random.default_rng(1)
    values = np.round(np.maximum(draw.normal(size=(TOKENS, 6)) + 0.7 * (label_ids[:, None] == np.arange(6) % 3), 0), 1)  # many equal values
    found = best_single(feature_units(csc_array(values)), label_ids, selection, LABELS)
    for label, detector in enumerate(found):
        present = label_ids[selection] == label
        tried = {
            (unit, threshold): f1(values[selection, unit] > threshold, present)
            for unit in range(6)
            for threshold in [0, *np.unique(values[selection, unit])]
            if (values[selection, unit] > threshold).any()
        }
        assert detector.selection_f1 == pytest.approx(max(tried.values()))
        assert f1(detector.scores[selection] > detector.threshold, present) == pytest.approx(detector.selection_f1)
        assert np.array_equal(detector.scores, values[:, detector.units[0]])


def test_what_is_selected_does_not_depend_on_the_held_out_half(label_ids, selection):
    values = np.maximum(np.random.default_rng(2).normal(size=(TOKENS, 5)), 0)
    other = np.where(selection[:, None], values, 7 * values[::-1])
    one, two = (best_single(feature_units(csc_array(each)), label_ids, selection, LABELS) for each in (values, other))
    assert [(each.units.tolist(), each.threshold, each.selection_f1) for each in one] == [
        (each.units.tolist(), each.threshold, each.selection_f1) for each in two
    ]


def test_a_unit_that_fires_on_the_label_alone_is_found(label_ids, selection):
    noise = np.maximum(np.random.default_rng(3).normal(size=(TOKENS, 9)), 0)
    noise[:, 4] = np.where(label_ids == 2, 0.5, 0)
    detector = best_single(feature_units(csc_array(noise)), label_ids, selection, LABELS)[2]
    assert (detector.units.tolist(), detector.selection_f1) == ([4], 1)
    assert 0 <= detector.threshold < 0.5


def test_a_neuron_may_detect_by_what_it_has_below_zero(label_ids, selection):
    activations = np.random.default_rng(4).normal(size=(TOKENS, 3)).astype(np.float32)
    activations[:, 1] = np.where(label_ids == 0, -2.0, 1.0)
    units = neuron_units(activations)
    detector = best_single(units, label_ids, selection, LABELS)[0]
    assert (units.ids[detector.units].tolist(), units.signs[detector.units].tolist(), detector.selection_f1) == ([1], [-1], 1)
    assert neuron_units(np.abs(activations)).values.shape == (TOKENS, 3), "neurons that stay above zero are one unit each"


def test_a_unit_that_never_fires_and_no_unit_at_all_detect_nothing(label_ids, selection):
    silent = best_single(feature_units(csc_array((TOKENS, 2))), label_ids, selection, LABELS)
    assert [each.selection_f1 for each in silent] == [0, 0, 0]
    assert not any((each.scores > each.threshold).any() for each in silent)


def test_a_probe_of_two_units_finds_a_label_that_is_split_over_them(label_ids, selection):
    draw = np.random.default_rng(5)
    values = np.maximum(draw.normal(size=(TOKENS, 8)) - 1.5, 0)
    split = draw.random(TOKENS) < 0.5
    values[:, 2], values[:, 6] = np.where((label_ids == 1) & split, 3, 0), np.where((label_ids == 1) & ~split, 3, 0)
    units = feature_units(csc_array(values))
    single, probe = best_single(units, label_ids, selection, LABELS)[1], sparse_probes(units, label_ids, selection, LABELS, 2)[1]
    assert sorted(probe.units.tolist()) == [2, 6]
    assert probe.kind == "probe_2"
    assert f1(probe.scores[~selection] > probe.threshold, label_ids[~selection] == 1) == 1 > single.selection_f1


def test_a_probe_wider_than_the_units_takes_them_all(label_ids, selection):
    values = csc_array(np.maximum(np.random.default_rng(6).normal(size=(TOKENS, 3)), 0))
    assert len(sparse_probes(feature_units(values), label_ids, selection, LABELS, 5)[0].units) == 3
