"""Controls: directions that other methods, or chance, find in the same activations, to be explained with the same budget as features.

What a method finds is kept in the scratch of its source, so that all workers read the very same numbers; it is fitted once, on rows spread over
the whole store.
"""

import logging
import warnings
from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import AfterValidator, Field, PositiveInt
from safetensors.torch import save
from scipy.sparse import csc_array
from torch import Tensor
from torch.nn.functional import normalize

from sae.architectures.config import TopKConfig
from sae.architectures.registry import build_dictionary
from sae.config import Config, Location, refuse_repetition
from sae.errors import InputError
from sae.interpretation.sampling import draw_seed
from sae.storage import Place
from sae.store import Store
from sae.store.schema import copy_rows
from sae.tensor_files import load_tensors, read_header, unusable_tensor

ControlKind = Literal["random_directions", "pca", "ica", "nmf", "random_dictionary"]
FITTED: tuple[ControlKind, ...] = ("pca", "ica", "nmf")
FIT_KEY = "scratch/fit.safetensors"
DEFAULT_K = 32  # features of a random dictionary that fire, where the dictionary beside it does not fix their number
ICA_ITERATIONS, ICA_TOLERANCE = 100, 1e-3
NMF_EPOCHS, NMF_BATCH = 10, 1024
NMF_STEPS = 50  # of the projected gradient: the squared error changes by less than 1e-3 of itself after them

logger = logging.getLogger(__name__)


class ControlsConfig(Config):
    """Configuration of the controls next to the dictionaries and the neurons, and how much of each is examined."""

    kinds: Annotated[list[ControlKind], AfterValidator(refuse_repetition)] = Field(
        ["random_directions", "pca"],
        description="random_directions, pca, ica, nmf (fitted on the store), random_dictionary (a TopK dictionary that was never trained)",
    )
    num_features: PositiveInt = Field(256, le=65_536, description="features examined of each control, at most; components of pca, ica and nmf")
    fit_vectors: PositiveInt = Field(32_768, le=10**7, description="vectors that pca, ica and nmf are fitted on, spread over the store")
    shuffled_run: Location | None = Field(
        None, description="URL of a run that was harvested and trained with subject.shuffle_seed: its dictionaries become controls; null: none"
    )


class LinearSource:
    """`ReLU((x - center) @ readoutᵀ)`: random directions, principal and independent components.

    Args:
        center: subtracted first, since the mean of the data would otherwise decide for many directions whether they fire at all.
        readout: a row for each feature.
        written: what each feature adds to the activation; None: the readout itself.
    """

    def __init__(self, center: Float[Tensor, " d_in"], readout: Float[Tensor, "features d_in"], written: Tensor | None = None) -> None:
        self._center, self._readout, self._written = center, readout, readout if written is None else written

    def firings(self, x: Float[Tensor, "batch d_in"]) -> csc_array:
        """The positive parts of the projections."""
        return positive_parts((x.float().cpu() - self._center) @ self._readout.T)

    def directions(self, low: int, high: int) -> Float[Tensor, "features d_in"]:
        """Directions that they read or, of components, write."""
        return self._written[low:high]


class NMFSource:
    """The non-negative code of an activation over fixed non-negative parts: `argmin_{w ≥ 0} ‖(x - offset) - w @ parts‖²`.

    Found by Nesterov's accelerated projected gradient in float32. Reference: Lee and Seung 1999 (the model), Beck and Teboulle 2009 (the method).

    Args:
        offset: the smallest value of each coordinate on the vectors it was fitted on, at most 0; what is below it counts as it.
        parts: a non-negative row for each feature.
    """

    def __init__(self, offset: Float[Tensor, " d_in"], parts: Float[Tensor, "features d_in"]) -> None:
        self._offset, self._parts = offset, parts
        self._gram = parts @ parts.T
        self._step = 1 / float(torch.linalg.eigvalsh(self._gram)[-1])

    def firings(self, x: Float[Tensor, "batch d_in"]) -> csc_array:
        """The code, with exact zeros."""
        target = (x.float().cpu() - self._offset).clamp_(min=0) @ self._parts.T
        code = torch.zeros_like(target)
        ahead, momentum = code, 1.0
        for _ in range(NMF_STEPS):
            found = torch.addmm(ahead + self._step * target, ahead, self._gram, alpha=-self._step).clamp_(min=0)
            following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
            ahead = torch.lerp(code, found, 1 + (momentum - 1) / following)
            code, momentum = found, following
        return positive_parts(code)

    def directions(self, low: int, high: int) -> Float[Tensor, "features d_in"]:
        """The parts."""
        return self._parts[low:high]


class RandomDictionarySource:
    """A TopK dictionary of random directions that was never trained, centred on the mean: what sparsity alone gives.

    `f = ReLU(TopK((x - mean) @ directionsᵀ))`, as many features and as many of them firing as in the dictionary beside it.
    """

    def __init__(self, mean: Float[Tensor, " d_in"], d_sae: int, k: int, seed: int) -> None:
        self._dictionary = build_dictionary(TopKConfig(d_sae=d_sae, k=k), len(mean)).eval()
        self._dictionary.initialize(mean.float(), torch.Generator().manual_seed(draw_seed(seed, "random_dictionary")))

    @torch.no_grad()
    def firings(self, x: Float[Tensor, "batch d_in"]) -> csc_array:
        """Its code."""
        return positive_parts(self._dictionary.encode(x.float().cpu()))

    @torch.no_grad()
    def directions(self, low: int, high: int) -> Float[Tensor, "features d_in"]:
        """Its decoder's rows."""
        return self._dictionary.W_dec[low:high].detach()


def random_directions(mean: Float[Tensor, " d_in"], num_directions: int, seed: int) -> LinearSource:
    """Directions drawn uniformly from the sphere, around the mean of the data.

    Reference: the random-directions baseline of Cunningham et al. 2023 (arXiv 2309.08600); centred here.
    """
    generator = torch.Generator().manual_seed(draw_seed(seed, "random_directions"))
    return LinearSource(mean, normalize(torch.randn(num_directions, len(mean), generator=generator)))


def fitted_source(kind: str, place: Place) -> LinearSource | NMFSource:
    """The source that `fit_control` left in the directory of a source.

    Raises:
        InputError: what was fitted is damaged.
    """
    data, where = place.get(FIT_KEY), place.path(FIT_KEY)
    tensors, _ = read_header(data, where)
    if {"center", "written"} - tensors.keys():
        raise InputError(f"{where} lacks what was fitted. Delete {place.url}/scratch and interpret again")
    found = load_tensors(data, where)
    if problem := unusable_tensor(found):
        raise InputError(f"{where}: {problem}. Delete {place.url}/scratch and interpret again")
    if kind == "nmf":
        return NMFSource(found["center"], found["written"])
    return LinearSource(found["center"], found["readout"], found["written"])


def fit_control(kind: str, store: Store, hookpoint: str, num_features: int, num_vectors: int, seed: int, place: Place) -> None:
    """Fit a control on the store and leave it in the directory of its source.

    Raises:
        InputError: the store holds fewer vectors than components.
    """
    x = spread_rows(store, hookpoint, num_vectors)
    if len(x) < num_features:
        raise InputError(f"{store.place.url} holds {len(x)} vectors, too few for {num_features} components: give controls.num_features below that")
    methods: dict[str, Callable[[np.ndarray, int, int], dict[str, np.ndarray]]] = {"pca": _fit_pca, "ica": _fit_ica, "nmf": _fit_nmf}
    fitted = methods[kind](x, num_features, draw_seed(seed, kind) % 2**32)
    place.put(FIT_KEY, save({name: torch.from_numpy(np.ascontiguousarray(value, np.float32)) for name, value in fitted.items()}))


def spread_rows(store: Store, hookpoint: str, wanted: int) -> np.ndarray:
    """About `wanted` activations, the first rows of every shard (which are shuffled within it), float32."""
    sizes = store.shard_rows(hookpoint)
    counts = [min(size, -(-wanted // len(sizes))) for size in sizes]
    x, filled = torch.empty(sum(counts), store.width(hookpoint)), 0
    for shard, count in enumerate(counts):
        copy_rows([(store.open(hookpoint, [shard])[0], 0, count, x[filled : filled + count])])
        store.close(hookpoint, [shard])
        filled += count
    return x.numpy()


def _fit_pca(x: np.ndarray, num_features: int, seed: int) -> dict[str, np.ndarray]:
    from sklearn.decomposition import PCA  # two seconds of import: only who fits pays them

    found = PCA(num_features, svd_solver="covariance_eigh").fit(x)
    return _oriented(x, found.mean_, found.components_, found.components_)


def _fit_ica(x: np.ndarray, num_features: int, seed: int) -> dict[str, np.ndarray]:
    """FastICA (Hyvärinen and Oja 2000) with the logcosh contrast on the leading principal components."""
    from sklearn.decomposition import FastICA

    method = FastICA(num_features, whiten="unit-variance", whiten_solver="eigh", max_iter=ICA_ITERATIONS, tol=ICA_TOLERANCE, random_state=seed)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = method.fit(x)
    if caught or found.n_iter_ >= ICA_ITERATIONS:
        logger.warning("ICA stopped after %d iterations: %s", found.n_iter_, caught[0].message if caught else "not converged")
    return _oriented(x, found.mean_, found.components_, found.mixing_.T)


def _fit_nmf(x: np.ndarray, num_features: int, seed: int) -> dict[str, np.ndarray]:
    from sklearn.decomposition import MiniBatchNMF

    offset = np.minimum(x.min(0), 0)
    method = MiniBatchNMF(num_features, init="nndsvda", batch_size=NMF_BATCH, max_iter=NMF_EPOCHS, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it stopped after the epochs it was given
        parts = method.fit(x - offset).components_
    # Unit norm: the length of a part is arbitrary, its code takes up the inverse; a part that nothing uses stays zero.
    return {"center": offset, "written": parts / np.maximum(np.linalg.norm(parts, axis=1, keepdims=True), 1e-12)}


def _oriented(x: np.ndarray, center: np.ndarray, readout: np.ndarray, written: np.ndarray) -> dict[str, np.ndarray]:
    """Components whose sign, which is arbitrary, points to their longer tail: the side on which a component fires rarely and strongly."""
    signs = np.where(np.power((x - center) @ readout.T, 3).sum(0) < 0, -1, 1)[:, None]
    return {"center": center, "readout": readout * signs, "written": written * signs}


def positive_parts(x: Float[Tensor, "batch features"]) -> csc_array:
    """The positive entries of a dense matrix."""
    columns = x.T.contiguous().float().numpy(force=True)
    flat = np.flatnonzero(columns > 0)
    features, rows = np.divmod(flat, columns.shape[1])
    pointers = np.concatenate([[0], np.cumsum(np.bincount(features, minlength=columns.shape[0]))])
    return csc_array((columns.reshape(-1)[flat], rows, pointers), shape=columns.shape[::-1])
