"""The TopK autoencoder with the AuxK loss."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from sae.architectures.base import FIRST_STEP, Dictionary, StepContext, TrainingPass
from sae.architectures.config import TopKConfig
from sae.kernels.features import decode_features, encode_at, encode_topk
from sae.kernels.selection import keep_largest_of_row
from sae.kernels.sparse import Features, SparseFeatures
from sae.kernels.support import support_topk
from sae.losses import auxiliary_squared_error, normalized_squared_error
from sae.parallel.workers import ALONE, Workers


class TopKDictionary(Dictionary):
    """f = ReLU(TopK((x − b_dec) W_enc + b_enc)), x̂ = f W_dec + b_dec, with unit-norm rows of W_dec.

    L = Σ‖x − x̂‖² / Σ‖x − x̄‖² + aux_coefficient · Σ‖e − ê‖² / Σ‖e − ē‖², where e = x − x̂ is taken as a constant and ê = f_aux W_dec
    comes from the aux_k largest features among the dead. Of equal pre-activations the lowest feature id is kept.

    Reference: Gao et al. 2024 (arXiv 2406.04093), TopK and AuxK. Deviation: their released code rescales the new encoder so
        that outputs are as long as inputs, which they found of no clear use; not done here.
    """

    feature_parallel = True
    config: TopKConfig

    @property
    def aux_k(self) -> int:
        """Dead features that may fire for the auxiliary loss."""
        if self.config.aux_k is not None:
            return self.config.aux_k
        return 1 << round(math.log2(max(1.0, self.d_in / 2)))

    @torch.no_grad()
    def initialize(self, b_dec: Float[Tensor, " d_out"], generator: torch.Generator) -> None:
        """Decoder rows of random direction, the encoder their transpose, b_enc = 0."""
        self.draw_directions(generator)
        self.b_enc.zero_()
        self.b_dec.copy_(b_dec)

    def features(self, scaled: Float[Tensor, "batch d_in"], workers: Workers = ALONE) -> Features:
        """The k largest entries of ReLU((x − b_dec) W_enc + b_enc) per row."""
        return self.largest_of_row(scaled, self.W_enc, self.b_enc, self.config.k, workers)

    def training_features(self, scaled: Float[Tensor, "batch d_in"], workers: Workers) -> SparseFeatures:
        """The features of a training batch; here those of an evaluation."""
        return self.largest_of_row(scaled, self.W_enc, self.b_enc, self.config.k, workers)

    def reconstruction_loss(
        self, features: SparseFeatures, target: Float[Tensor, "batch d_out"], workers: Workers
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "batch d_out"]]:
        """The normalised squared error, and the reconstruction."""
        reconstruction = self.decode_scaled(features, workers)
        return normalized_squared_error(target, reconstruction, workers), reconstruction

    def training_pass(self, x: Float[Tensor, "batch d_in"], context: StepContext = FIRST_STEP) -> TrainingPass:
        """Loss terms `reconstruction` and `auxiliary` (0 where nothing is dead)."""
        scaled, target = self.scaled(x), self.scaled_target(x, context.target)
        features = self.training_features(scaled, context.workers)
        loss, reconstruction = self.reconstruction_loss(features, target, context.workers)
        auxiliary = self.config.aux_coefficient * self.auxiliary_loss(scaled, target - reconstruction.detach(), context)
        return self.result({"reconstruction": loss, "auxiliary": auxiliary}, reconstruction, features)

    def auxiliary_loss(self, scaled: Float[Tensor, "batch d_in"], error: Float[Tensor, "batch d_out"], context: StepContext) -> Float[Tensor, ""]:
        """Measure how badly the aux_k largest dead features predict `error`, a constant; 0 where nothing is dead."""
        dead, workers = context.dead, context.workers
        if dead is None or self.config.aux_coefficient == 0 or not bool(workers.gather_features(dead.any().view(1)).any()):
            return scaled.new_zeros(())
        ids = dead.nonzero().view(-1)
        W_enc, b_enc, W_dec = self.W_enc.index_select(1, ids), self.b_enc.index_select(0, ids), self.W_dec.index_select(0, ids)
        features = self.largest_of_row(scaled, W_enc, b_enc, self.aux_k, workers)
        return auxiliary_squared_error(error, workers.sum_features(decode_features(features, W_dec)), workers)

    def largest_of_row(
        self, scaled: Float[Tensor, "batch d_in"], W_enc: Float[Tensor, "d_in some"], b_enc: Float[Tensor, " some"], k: int, workers: Workers
    ) -> SparseFeatures:
        """The k largest entries per row of ReLU((x − b_dec) W_enc + b_enc), over the features of all workers."""
        center = self.center(workers)
        if workers.feature_size == 1:
            return encode_topk(scaled, center, W_enc, b_enc, k, self.encode_dtype)
        own = support_topk(scaled, center, W_enc, b_enc, k)
        return encode_at(scaled, center, W_enc, b_enc, keep_largest_of_row(own, k, workers))
