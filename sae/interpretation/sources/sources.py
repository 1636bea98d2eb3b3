"""Sources of features: anything that turns an activation into a row of non-negative feature values.

A dictionary is one; the neurons are another, and so are the controls (`controls`). All see the same tokens and get the same budget.
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
from sae.interpretation.sources.controls import FITTED, RandomDictionarySource, fitted_source, positive_parts, random_directions
from sae.kernels.candidates import fastest_dtype
from sae.storage import Place
from sae.subject.model import SubjectConfig

SourceKind = Literal["dictionary", "neurons", "random_directions", "pca", "ica", "nmf", "random_dictionary", "shuffled_model"]


class SourceSpec(Config):
    """A source by name: what a worker needs to open it.

    Attributes:
        url: of the dictionary, for the kinds that are one.
        digest: of its `config.json`, which covers its weights.
        target_hookpoint: whose activations it reconstructs, for a transcoder.
        num_features: how many it has.
        max_examined: how many are looked at, at most; None: as many as the budget says.
        k: of a random dictionary.
        subject: another subject model than the run's (the weight-shuffled one), with its digest.
        subject_digest: of `subject`.
    """

    name: str
    kind: SourceKind
    url: str = ""
    digest: str = ""
    target_hookpoint: str | None = None
    num_features: int
    max_examined: int | None = None
    k: int = 0
    subject: SubjectConfig | None = None
    subject_digest: str = ""

    def written_hookpoint(self, hookpoint: str) -> str:
        """Where its features write: the target of a transcoder, else the `hookpoint` that it encodes."""
        return self.target_hookpoint or hookpoint

    @property
    def is_control(self) -> bool:
        """Say whether a dictionary's features should be explained better than this."""
        return self.kind != "dictionary"


class FeatureSource(Protocol):
    """Features over the activations of one hookpoint."""

    def firings(self, x: Float[Tensor, "batch d_in"]) -> csc_array:
        """The value of every feature that fires, `[batch features]`."""

    def directions(self, low: int, high: int) -> Float[Tensor, "features d_out"]:
        """Directions that the features `[low, high)` write at the hookpoint they write to, or, for baselines, read."""


class DictionarySource:
    """The features of a trained dictionary."""

    def __init__(self, url: str, device: str) -> None:
        self.dictionary = load_dictionary(url, device)
        self.dictionary.encode_dtype = fastest_dtype(device)

    @torch.no_grad()
    def firings(self, x: Float[Tensor, "batch d_in"]) -> csc_array:
        """The dictionary's code."""
        code = self.dictionary.encode_sparse(x)
        parts = (code.values.numpy(force=True), code.feature_ids.numpy(force=True), code.row_pointers.numpy(force=True))
        columns = csr_array(parts, shape=(len(x), code.num_features)).tocsc()
        columns.eliminate_zeros()
        return columns

    @torch.no_grad()
    def directions(self, low: int, high: int) -> Float[Tensor, "features d_out"]:
        """Decoder directions in raw units: what one unit of the feature adds to the activation, or to a transcoder's target."""
        return self.dictionary.W_dec[low:high].detach().float() / self.dictionary.decoded_scale


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


def open_source(spec: SourceSpec, mean: Float[Tensor, " d_in"], seed: int, place: Place, device: str = "cpu") -> FeatureSource:
    """Open a source.

    Args:
        spec: which.
        mean: of the activations at the hookpoint.
        seed: of what is drawn at random.
        place: of the source, where a fitted control left what it found.
        device: where a dictionary encodes.
    """
    if spec.kind in ("dictionary", "shuffled_model"):
        return DictionarySource(spec.url, device)
    if spec.kind in FITTED:
        return fitted_source(spec.kind, place)
    if spec.kind == "random_dictionary":
        return RandomDictionarySource(mean, spec.num_features, spec.k, seed)
    return NeuronSource(len(mean)) if spec.kind == "neurons" else random_directions(mean, spec.num_features, seed)


def examined_features(spec: SourceSpec, max_features: int | None, seed: int) -> np.ndarray:
    """Choose the features to examine: all, or a seeded sample, ascending."""
    wanted = min(spec.num_features, *(limit for limit in (max_features, spec.max_examined) if limit is not None), spec.num_features)
    if wanted == spec.num_features:
        return np.arange(spec.num_features)
    return np.sort(np.random.default_rng(draw_seed(seed, "features", spec.name)).choice(spec.num_features, wanted, replace=False))
