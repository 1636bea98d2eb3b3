"""Figures of weights restated, and the cluster of ultra-low density found where there is one and only there."""

import numpy as np
import pytest
import torch

from sae.architectures.config import GatedConfig, ReluConfig, TiedConfig
from sae.architectures.registry import build_dictionary
from sae.evaluation import weights as weights_module
from sae.evaluation.weights import FeatureWeights, density_clusters, feature_weights, ultra_low_features

TOKENS = 10_000_000


@pytest.fixture
def dictionary():
    made = build_dictionary(ReluConfig(d_sae=40), 8)
    made.initialize(torch.zeros(8), torch.Generator().manual_seed(0))
    with torch.no_grad():
        made.W_enc.copy_(torch.randn(8, 40, generator=torch.Generator().manual_seed(1)))
        made.b_enc.copy_(torch.linspace(-1, 1, 40))
    return made


def cosine(one, other):
    return float(one @ other / (one.norm() * other.norm()))


def test_figures_of_each_feature(dictionary):
    found = feature_weights(dictionary)
    encoder, decoder = dictionary.W_enc.detach(), dictionary.W_dec.detach()
    for feature in (0, 17, 39):
        assert found.encoder_bias[feature] == pytest.approx(dictionary.b_enc[feature].item())
        assert found.encoder_norm[feature] == pytest.approx(encoder[:, feature].norm().item(), rel=1e-5)
        assert found.encoder_decoder_cosine[feature] == pytest.approx(cosine(encoder[:, feature], decoder[feature]), abs=1e-6)
        others = [other for other in range(40) if other != feature]
        assert found.max_encoder_cosine[feature] == pytest.approx(max(cosine(encoder[:, feature], encoder[:, other]) for other in others), abs=1e-6)
        assert found.max_decoder_cosine[feature] == pytest.approx(max(cosine(decoder[feature], decoder[other]) for other in others), abs=1e-6)


def test_of_a_wide_dictionary_some_features_are_compared_with_all(dictionary, monkeypatch):
    whole = feature_weights(dictionary).max_decoder_cosine
    monkeypatch.setattr(weights_module, "MAX_COMPARED", 5)
    some = feature_weights(dictionary).max_decoder_cosine
    assert np.isfinite(some).sum() == 5
    np.testing.assert_allclose(some[np.isfinite(some)], whole[np.isfinite(some)])


def test_every_architecture_has_an_encoder_and_a_bias():
    for config in (TiedConfig(d_sae=12), GatedConfig(d_sae=12)):
        found = feature_weights(build_dictionary(config, 8))
        assert found.encoder_bias.shape == found.encoder_decoder_cosine.shape == (12,)
    assert feature_weights(build_dictionary(TiedConfig(d_sae=12), 8)).encoder_decoder_cosine == pytest.approx(1)


def test_a_transcoder_between_two_widths_has_no_cosine_of_encoder_and_decoder():
    found = feature_weights(build_dictionary(ReluConfig(d_sae=12), 8, 6))
    assert np.isnan(found.encoder_decoder_cosine).all()
    assert np.isfinite(found.max_decoder_cosine).all()


def planted(num_low):
    """1,000 features around a density of 1e-3, of which so many stand at 1e-7, with lower biases and encoders that left their decoders."""
    draw = np.random.default_rng(0)
    low = np.arange(1000) < num_low
    density = 10 ** np.where(low, draw.normal(-7, 0.3, 1000), draw.normal(-3, 0.5, 1000))
    density[:10] = np.where(low[:10], 0, density[:10])
    bias, together = draw.normal(np.where(low, -1.5, -0.2), 0.1), np.clip(draw.normal(np.where(low, 0.1, 0.8), 0.1), -1, 1)
    return density, FeatureWeights(bias, np.ones(1000), together, np.ones(1000), np.ones(1000)), low


def test_the_ultra_low_cluster_is_told_by_density_bias_and_cosine():
    density, weights, low = planted(150)
    found = ultra_low_features(density, weights, TOKENS)
    assert (found == low).mean() > 0.99
    clusters = density_clusters(density, weights, found)
    assert clusters.ultra_low.num_features == pytest.approx(150, abs=5)
    assert clusters.ultra_low.median_density < 1e-6 < clusters.others.median_density
    assert clusters.ultra_low.median_encoder_bias < -1 < clusters.others.median_encoder_bias
    assert clusters.ultra_low.median_encoder_decoder_cosine < 0.3 < clusters.others.median_encoder_decoder_cosine


def test_one_cluster_is_not_split():
    density, weights, _ = planted(0)
    found = ultra_low_features(density, weights, TOKENS)
    assert not found.any()
    assert density_clusters(density, weights, found) is None


def test_few_features_and_features_that_never_fire_make_no_cluster():
    density, weights, _ = planted(150)
    few = FeatureWeights(*(values[:90] for values in vars(weights).values()))
    assert not ultra_low_features(density[:90], few, TOKENS).any()
    assert not ultra_low_features(np.zeros(1000), weights, TOKENS).any()
