"""The TopK autoencoder with the AuxK loss."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae.architectures.base import Dictionary, TrainingPass
from sae.architectures.config import TopKConfig
from sae.kernels.features import decode_features, encode_topk
from sae.kernels.sparse import SparseFeatures
from sae.losses import auxiliary_squared_error, mean_squared_errors, normalized_squared_error


class TopKDictionary(Dictionary):
    """f = ReLU(TopK((x − b_dec) W_enc + b_enc)), x̂ = f W_dec + b_dec, with unit-norm rows of W_dec.

    L = Σ‖x − x̂‖² / Σ‖x − x̄‖² + aux_coefficient · Σ‖e − ê‖² / Σ‖e − ē‖², where e = x − x̂ is taken as a constant and ê = f_aux W_dec
    comes from the aux_k largest features among the dead. Of equal pre-activations the lowest feature id is kept.

    Reference: Gao et al. 2024 (arXiv 2406.04093), sections 2.3 and A.2. Deviation: their released code rescales the new encoder so
        that outputs are as long as inputs, which they found of no clear use; not done here.
    """

    config: TopKConfig

    @property
    def aux_k(self) -> int:
        """Dead features that may fire for the auxiliary loss."""
        if self.config.aux_k is not None:
            return self.config.aux_k
        return 1 << round(math.log2(max(1.0, self.d_in / 2)))

    @torch.no_grad()
    def initialize(self, b_dec: Float[Tensor, " d_in"], generator: torch.Generator) -> None:
        """Decoder rows of random direction, the encoder their transpose, b_enc = 0."""
        self.W_dec.copy_(torch.randn(self.W_dec.shape, generator=generator))
        self.after_step()
        self.W_enc.copy_(self.W_dec.t())
        self.b_enc.zero_()
        self.b_dec.copy_(b_dec)

    def features(self, scaled: Float[Tensor, "batch d_in"]) -> SparseFeatures:
        """The k largest entries of ReLU((x − b_dec) W_enc + b_enc) per row."""
        return encode_topk(scaled, self.b_dec, self.W_enc, self.b_enc, self.config.k)

    def training_pass(self, x: Float[Tensor, "batch d_in"], dead: Bool[Tensor, " d_sae"] | None = None, sparsity_scale: float = 1.0) -> TrainingPass:
        """Loss terms `reconstruction` and `auxiliary` (0 where nothing is dead)."""
        scaled = self.scaled(x)
        features = self.features(scaled)
        reconstruction = decode_features(features, self.W_dec) + self.b_dec
        losses = {
            "reconstruction": normalized_squared_error(scaled, reconstruction),
            "auxiliary": self.config.aux_coefficient * self._auxiliary_loss(scaled, reconstruction.detach(), dead),
        }
        losses["total"] = losses["reconstruction"] + losses["auxiliary"]
        return TrainingPass(losses, reconstruction.detach() / self.input_scale, features.detach())

    @torch.no_grad()
    def vector_losses(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, " batch"]:
        """Mean squared error of each vector, in scaled units."""
        scaled = self.scaled(x)
        return mean_squared_errors(scaled, decode_features(self.features(scaled), self.W_dec) + self.b_dec)

    def _auxiliary_loss(
        self, scaled: Float[Tensor, "batch d_in"], reconstruction: Float[Tensor, "batch d_in"], dead: Bool[Tensor, " d_sae"] | None
    ) -> Float[Tensor, ""]:
        if dead is None or self.config.aux_coefficient == 0 or not bool(dead.any()):
            return scaled.new_zeros(())
        ids = dead.nonzero().view(-1)
        W_enc, b_enc, W_dec = self.W_enc.index_select(1, ids), self.b_enc.index_select(0, ids), self.W_dec.index_select(0, ids)
        features = encode_topk(scaled, self.b_dec, W_enc, b_enc, self.aux_k)
        return auxiliary_squared_error(scaled - reconstruction, decode_features(features, W_dec))
