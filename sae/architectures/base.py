"""The contract that every dictionary keeps."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sae.errors import WidthError
from sae.kernels.features import decode_features
from sae.kernels.sparse import Features, SparseFeatures, as_dense, as_sparse, firings_of


@dataclass(frozen=True, eq=False)
class TrainingPass:
    """What one batch gave: weighted loss terms with their sum `total`, and what was encoded and decoded on the way.

    Args:
        losses: scalars by name, already weighted, in scaled units; `total` carries the gradient.
        reconstruction: in raw units, without gradient.
        code: the features as they were computed, sparse or dense, without gradient.
    """

    losses: dict[str, Float[Tensor, ""]]
    reconstruction: Float[Tensor, "batch d_in"]
    code: Features

    @cached_property
    def features(self) -> SparseFeatures:
        """The features that fired. Costs a conversion where most features fire; `firings` and `active` do not."""
        return as_sparse(self.code)

    @cached_property
    def firings(self) -> Int[Tensor, " d_sae"]:
        """For how many vectors of the batch each feature fired."""
        return firings_of(self.code)

    @property
    def active(self) -> Bool[Tensor, " d_sae"]:
        """Which features fired for any vector of the batch."""
        return self.firings > 0


class Dictionary(nn.Module, ABC):
    """A sparse autoencoder: x̂ = (f(x · s) W_dec + b_dec) / s, where s is `input_scale`.

    Every method takes and returns raw activations; inside, weights, features and losses live in scaled units x · s. The decoder's
    rows, the features' directions, have unit norm after `initialize` and after every `after_step`.

    Args:
        config: of the architecture.
        d_in: activation width.
    """

    input_scale: Float[Tensor, ""]

    def __init__(self, config: Any, d_in: int) -> None:
        super().__init__()
        self.config = config
        self.architecture: str = config.architecture
        self.d_in = d_in
        self.d_sae: int = config.d_sae
        self.W_enc = nn.Parameter(torch.empty(d_in, self.d_sae))
        self.b_enc = nn.Parameter(torch.zeros(self.d_sae))
        self.W_dec = nn.Parameter(torch.empty(self.d_sae, d_in))
        self.b_dec = nn.Parameter(torch.zeros(d_in))
        self.register_buffer("input_scale", torch.ones(()))
        self.initialize(torch.zeros(d_in), torch.Generator().manual_seed(0))

    @abstractmethod
    def initialize(self, b_dec: Float[Tensor, " d_in"], generator: torch.Generator) -> None:
        """Set all weights anew, drawing from `generator`; `b_dec` is in scaled units."""

    @abstractmethod
    def features(self, scaled: Float[Tensor, "batch d_in"]) -> Features:
        """The features of scaled activations, held in whichever way is cheaper."""

    @abstractmethod
    def training_pass(self, x: Float[Tensor, "batch d_in"], dead: Bool[Tensor, " d_sae"] | None = None, sparsity_scale: float = 1.0) -> TrainingPass:
        """Encode, decode and price one batch.

        Args:
            x: raw activations.
            dead: features that have long been silent, for losses that revive them.
            sparsity_scale: factor of the sparsity term, for warming it up; of no effect where sparsity is built in.

        Raises:
            WidthError: x is not of width d_in.
        """

    @abstractmethod
    def vector_losses(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, " batch"]:
        """The loss of each vector by itself, without gradient: by it, inputs are drawn for resampling."""

    def scaled(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_in"]:
        """Raw activations in the units of the weights.

        Raises:
            WidthError: x is not of shape [batch, d_in].
        """
        if x.ndim != 2 or x.shape[1] != self.d_in:
            raise WidthError(f"activations of shape {list(x.shape)} given to a dictionary that takes [batch, {self.d_in}]: flatten or pick another")
        return x.to(self.W_enc.dtype) * self.input_scale

    def encode(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_sae"]:
        """The features of raw activations, with their zeros; differentiable."""
        return as_dense(self.features(self.scaled(x)))

    def encode_sparse(self, x: Float[Tensor, "batch d_in"]) -> SparseFeatures:
        """The features of raw activations that fired; differentiable."""
        return as_sparse(self.features(self.scaled(x)))

    def decode(self, features: Features) -> Float[Tensor, "batch d_in"]:
        """Raw activations from features: (f W_dec + b_dec) / input_scale."""
        return (decode_features(features, self.W_dec) + self.b_dec) / self.input_scale

    def forward(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_in"]:
        """The reconstruction of raw activations."""
        return self.decode(self.features(self.scaled(x)))

    @torch.no_grad()
    def before_step(self) -> None:
        """Remove the gradient parallel to each feature's direction: the step's renormalisation would undo it, Adam's moments would not.

        Reference: Bricken et al. 2023, Towards Monosemanticity, appendix "Sparse Autoencoders".
        """
        if self.W_dec.grad is not None:
            parallel = torch.linalg.vecdot(self.W_dec.grad, self.W_dec)
            self.W_dec.grad.addcmul_(parallel[:, None], self.W_dec, value=-1)

    @torch.no_grad()
    def after_step(self) -> None:
        """Renormalise each feature's direction to unit norm; a zero row stays as it is."""
        norms = torch.linalg.vector_norm(self.W_dec, dim=1, keepdim=True)
        self.W_dec.div_(norms.clamp_min(torch.finfo(norms.dtype).tiny))
