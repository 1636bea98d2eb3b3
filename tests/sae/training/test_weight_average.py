"""The average of weights that is saved in their place."""

import torch

from sae.architectures.config import ReluConfig
from sae.architectures.registry import build_dictionary
from sae.training.optimization import WeightAverage


def test_it_is_the_mean_of_the_weights_after_each_step_weighted_down_by_its_decay():
    dictionary = build_dictionary(ReluConfig(d_sae=3), 2)
    average = WeightAverage(dictionary, 0.5)
    seen = []
    for step in range(4):
        with torch.no_grad():
            dictionary.b_enc.fill_(step + 1.0)
        average.update()
        seen.append(step + 1.0)
    weights = [0.5 ** (3 - step) for step in range(4)]
    expected = sum(weight * value for weight, value in zip(weights, seen, strict=True)) / sum(weights)
    torch.testing.assert_close(average.weights()["b_enc"], torch.full((3,), expected))


def test_a_resampled_feature_is_averaged_anew():
    dictionary = build_dictionary(ReluConfig(d_sae=3), 2)
    average = WeightAverage(dictionary, 0.9)
    for _ in range(5):
        average.update()
    before = average.weights()["W_dec"].clone()
    with torch.no_grad():
        dictionary.W_dec[1] = torch.tensor([0.0, 1.0])
    average.forget(torch.tensor([1]))
    torch.testing.assert_close(average.weights()["W_dec"][1], torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(average.weights()["W_dec"][[0, 2]], before[[0, 2]])
