"""What can be interpreted: anything that turns an activation into a row of non-negative feature values.

A dictionary is one; the baselines are the neurons themselves and random directions. All see the same tokens and get the same budget.
"""

from typing import Literal, Protocol

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import csc_array, csr_array
from torch import Tensor

from sae.checkpoint import load_dictionary
from sae.config import Config
from sae.interpretation.sampling import draw_seed

NEURONS, RANDOM_DIRECTIONS = "neurons", "random_directions"


class SourceSpec(Config):
    """A source by name: what a worker needs to open it."""

    name: str
    kind: Literal["dictionary", "neurons", "random_directions"]
    url: str = ""
    digest: str = ""
    num_features: int


class FeatureSource(Protocol):
    """Features over the activations of one hookpoint."""

    def firings(self, x: Float[Tensor, "batch d_in"]) -> csc_array:
        """The value of every feature that fires, `[batch features]`."""

    def directions(self, low: int, high: int) -> Float[Tensor, "features d_in"]:
        """What the features `[low, high)` write, or, for baselines, read."""


class DictionarySource:
    """The features of a trained dictionary."""

    def __init__(self, url: str, device: str) -> None:
        self.dictionary = load_dictionary(url, device)

    @torch.no_grad()
    def firings(self, x: Float[Tensor, "batch d_in"]) -> csc_array:
        """The dictionary's code."""
        code = self.dictionary.encode_sparse(x)
        parts = (code.values.numpy(force=True), code.feature_ids.numpy(force=True), code.row_pointers.numpy(force=True))
        columns = csr_array(parts, shape=(len(x), code.num_features)).tocsc()
        columns.eliminate_zeros()
        return columns

    @torch.no_grad()
    def directions(self, low: int, high: int) -> Float[Tensor, "features d_in"]:
        """Decoder directions in raw units: what one unit of the feature adds to the activation."""
        return self.dictionary.W_dec[low:high].detach().float() / self.dictionary.input_scale


class NeuronSource:
    """The coordinates of the activation; negative parts count as not firing.

    Reference: the default-basis baseline of Cunningham et al. 2023 (arXiv 2309.08600).
    """

    def __init__(self, d_in: int) -> None:
        self.d_in = d_in

    def firings(self, x: Float[Tensor, "batch d_in"]) -> csc_array:
        """`ReLU(x)`."""
        return positive_parts(x)

    def directions(self, low: int, high: int) -> Float[Tensor, "features d_in"]:
        """Unit vectors."""
        return torch.eye(self.d_in)[low:high]


class RandomSource:
    """Directions drawn uniformly from the sphere: `ReLU((x - mean) @ directionsᵀ)`.

    Reference: the random-directions baseline of Cunningham et al. 2023 (arXiv 2309.08600); centred here, since the mean of the data
    would otherwise decide for many directions whether they fire at all.
    """

    def __init__(self, mean: Float[Tensor, " d_in"], num_directions: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(draw_seed(seed, RANDOM_DIRECTIONS))
        drawn = torch.randn(num_directions, len(mean), generator=generator)
        self._directions = drawn / drawn.norm(dim=1, keepdim=True)
        self._mean = mean

    def firings(self, x: Float[Tensor, "batch d_in"]) -> csc_array:
        """The positive parts of the projections."""
        return positive_parts((x.float().cpu() - self._mean) @ self._directions.T)

    def directions(self, low: int, high: int) -> Float[Tensor, "features d_in"]:
        """The unit vectors drawn."""
        return self._directions[low:high]


def positive_parts(x: Float[Tensor, "batch features"]) -> csc_array:
    """The positive entries of a dense matrix."""
    columns = x.T.contiguous().float().numpy(force=True)
    flat = np.flatnonzero(columns > 0)
    features, rows = np.divmod(flat, columns.shape[1])
    pointers = np.concatenate([[0], np.cumsum(np.bincount(features, minlength=columns.shape[0]))])
    return csc_array((columns.reshape(-1)[flat], rows, pointers), shape=columns.shape[::-1])


def open_source(spec: SourceSpec, mean: Float[Tensor, " d_in"], seed: int, device: str = "cpu") -> FeatureSource:
    """Open a source.

    Args:
        spec: which.
        mean: of the activations at the hookpoint.
        seed: of the random directions.
        device: where a dictionary encodes.
    """
    if spec.kind == "dictionary":
        return DictionarySource(spec.url, device)
    return NeuronSource(len(mean)) if spec.kind == "neurons" else RandomSource(mean, spec.num_features, seed)


def examined_features(spec: SourceSpec, max_features: int | None, seed: int) -> np.ndarray:
    """Which features to look at: all, or a seeded sample, ascending."""
    if max_features is None or max_features >= spec.num_features:
        return np.arange(spec.num_features)
    return np.sort(np.random.default_rng(draw_seed(seed, "features", spec.name)).choice(spec.num_features, max_features, replace=False))
