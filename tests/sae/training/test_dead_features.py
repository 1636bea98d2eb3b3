"""Features silent for a number of vectors."""

import torch

from sae.training.log import DeadFeatureTracker


def test_a_feature_is_dead_once_it_has_been_silent_for_the_window():
    tracker = DeadFeatureTracker(3)
    tracker.update(torch.tensor([True, False, False]), 100)
    tracker.update(torch.tensor([False, True, False]), 100)
    assert tracker.silent_vectors.tolist() == [100, 0, 200]
    assert tracker.dead(200).tolist() == [False, False, True]
    assert tracker.dead(100).tolist() == [True, False, True]


def test_nothing_is_dead_before_the_window_has_passed():
    tracker = DeadFeatureTracker(2)
    tracker.update(torch.tensor([False, False]), 99)
    assert not tracker.dead(100).any()


def test_the_window_counts_vectors_and_not_batches():
    many_small, one_large = DeadFeatureTracker(1), DeadFeatureTracker(1)
    for _ in range(10):
        many_small.update(torch.tensor([False]), 10)
    one_large.update(torch.tensor([False]), 100)
    assert many_small.dead(100) == one_large.dead(100) == torch.tensor([True])


def test_a_revived_feature_has_the_whole_window_before_it():
    tracker = DeadFeatureTracker(2)
    tracker.update(torch.tensor([False, False]), 100)
    tracker.revive(torch.tensor([1]))
    assert tracker.dead(100).tolist() == [True, False]
