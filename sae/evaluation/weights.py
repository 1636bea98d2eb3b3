"""Metrics of a dictionary's weights, by feature, and the cluster of features of ultra-low density."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from sae.architectures.base import Dictionary
from sae.config import Config

MAX_COMPARED = 16_384  # features whose nearest one is looked for; of wider dictionaries as many, evenly spread: all pairs would take hours
BLOCK = 1024
CLUSTER_SEPARATION = 1.0  # decades of density between two clusters
MIN_CLUSTERED = 100  # fewer features show no two modes


class FeatureCluster(Config):
    """Features of one mode of the density histogram."""

    num_features: int
    median_density: float
    median_encoder_bias: float = Field(description="in scaled units")
    median_encoder_decoder_cosine: float


class DensityClusters(Config):
    """The two modes of the density histogram, told apart by log10 density, encoder bias and cosine of encoder and decoder vector."""

    ultra_low: FeatureCluster
    others: FeatureCluster


@dataclass(frozen=True)
class FeatureWeights:
    """Figures of each feature's weights, float64 `[d_sae]`; NaN where one is not defined.

    Attributes:
        encoder_bias: in scaled units; the gate's, of a gated dictionary.
        encoder_norm: norm of the encoder's column.
        encoder_decoder_cosine: of encoder column and decoder row; NaN for a transcoder between hookpoints of two widths.
        max_encoder_cosine: largest cosine with another feature's encoder column; NaN for features that were not compared.
        max_decoder_cosine: the same of decoder rows.
    """

    encoder_bias: np.ndarray
    encoder_norm: np.ndarray
    encoder_decoder_cosine: np.ndarray
    max_encoder_cosine: np.ndarray
    max_decoder_cosine: np.ndarray


@torch.no_grad()
def feature_weights(dictionary: Dictionary) -> FeatureWeights:
    """The figures of a dictionary's weights."""
    encoder, decoder = dictionary.W_enc.T.float(), dictionary.W_dec.float()
    bias: Tensor = dictionary.get_parameter("b_gate" if dictionary.architecture == "gated" else "b_enc")
    alike = encoder.shape == decoder.shape
    cosine = torch.cosine_similarity(encoder, decoder, dim=1) if alike else torch.full((len(encoder),), torch.nan)
    found = (bias, torch.linalg.vector_norm(encoder, dim=1), cosine, _max_cosines(encoder), _max_cosines(decoder))
    return FeatureWeights(*(values.double().cpu().numpy() for values in found))


def _max_cosines(directions: Float[Tensor, "d_sae width"]) -> Float[Tensor, " d_sae"]:
    units, count = normalize(directions), len(directions)
    compared = torch.linspace(0, count - 1, min(count, MAX_COMPARED), dtype=torch.float64).round().long().to(units.device)
    found = torch.full((count,), torch.nan, device=units.device)
    if count > 1:
        for rows in compared.split(BLOCK):
            cosines = units[rows] @ units.T
            cosines[torch.arange(len(rows)), rows] = -torch.inf
            found[rows] = cosines.amax(1)
    return found


def ultra_low_features(density: np.ndarray, weights: FeatureWeights, num_tokens: int) -> np.ndarray:
    """Find the features of the cluster of ultra-low density: bool `[d_sae]`, all False where there is no such cluster.

    Two normal distributions with full covariance are fitted to (log10 density, encoder bias, cosine of encoder and decoder vector), each
    column standardised; features that never fired stand at half of the smallest density that can be seen. The cluster of lower density
    counts if two distributions have a lower Bayesian information criterion than one and their mean densities lie a decade apart.

    Reference: Bricken et al. 2023, "Towards Monosemanticity", appendix on feature density: the ultra-low-density cluster also stands apart
    in these three quantities. How they were combined is not stated there.

    Args:
        density: fraction of tokens on which each feature fires, float64 `[d_sae]`.
        weights: of the dictionary.
        num_tokens: over how many tokens.
    """
    from sklearn.mixture import GaussianMixture  # a second of import, for those who evaluate

    none = np.zeros(len(density), bool)
    logs = np.log10(np.maximum(density, 0.5 / num_tokens))
    columns = [values for values in (logs, weights.encoder_bias, weights.encoder_decoder_cosine) if np.isfinite(values).all() and np.ptp(values) > 0]
    if len(density) < MIN_CLUSTERED or not columns or columns[0] is not logs:
        return none
    standardised = np.stack([(values - values.mean()) / values.std() for values in columns], axis=1)
    one, two = (GaussianMixture(count, random_state=0, n_init=3, reg_covar=1e-3).fit(standardised) for count in (1, 2))
    low = two.predict(standardised) == two.means_[:, 0].argmin()
    if low.all() or not low.any() or two.bic(standardised) >= one.bic(standardised):
        return none
    return low if logs[~low].mean() - logs[low].mean() >= CLUSTER_SEPARATION else none


def density_clusters(density: np.ndarray, weights: FeatureWeights, ultra_low: np.ndarray) -> DensityClusters | None:
    """Medians of the two clusters; None where there is only one."""
    if not ultra_low.any():
        return None
    return DensityClusters(ultra_low=_cluster(density, weights, ultra_low), others=_cluster(density, weights, ~ultra_low))


def _cluster(density: np.ndarray, weights: FeatureWeights, chosen: np.ndarray) -> FeatureCluster:
    return FeatureCluster(
        num_features=int(chosen.sum()),
        median_density=float(np.median(density[chosen])),
        median_encoder_bias=float(np.median(weights.encoder_bias[chosen])),
        median_encoder_decoder_cosine=float(np.median(weights.encoder_decoder_cosine[chosen])),
    )
