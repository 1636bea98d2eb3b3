"""The ReLU autoencoder with an L1 penalty."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae.architectures.base import FIRST_STEP, Dictionary, StepContext, TrainingPass
from sae.architectures.config import ReluConfig
from sae.kernels.features import encode_relu
from sae.kernels.sparse import Features
from sae.losses import l1_norms, mean_squared_errors
from sae.parallel.workers import ALONE, Workers

ENCODER_NORM_AT_START = 0.1


class ReluDictionary(Dictionary):
    """f = ReLU((x − b_dec) W_enc + b_enc), x̂ = f W_dec + b_dec, with unit-norm rows of W_dec.

    L = mean over the batch of (1/d_in) ‖x − x̂‖² + l1_coefficient Σ_i f_i: a mean over elements against a sum over features.

    Reference: Bricken et al. 2023, Towards Monosemanticity, appendix "Sparse Autoencoders". Their weights start as torch's linear
        layers do (Kaiming-uniform, bound 1/√fan_in); the start of b_enc is not stated, here 0. The transposed start is that of
        dictionary_learning's AutoEncoder.
    """

    feature_parallel = True
    config: ReluConfig

    @torch.no_grad()
    def initialize(self, b_dec: Float[Tensor, " d_out"], generator: torch.Generator) -> None:
        """Unit-norm decoder rows, b_enc = 0; Kaiming-uniform weights, or rows of random direction and a tenth of them as encoder."""
        if self.config.start == "transposed":
            self.draw_directions(generator)
            self.W_enc.mul_(ENCODER_NORM_AT_START)
        else:
            for weight, fan_in in ((self.W_enc, self.d_in), (self.W_dec, self.d_sae)):
                drawn = torch.empty(weight.shape)
                nn.init.uniform_(drawn, -(fan_in**-0.5), fan_in**-0.5, generator=generator)
                weight.copy_(drawn)
        self.b_enc.zero_()
        self.b_dec.copy_(b_dec)
        self.after_step()

    def features(self, scaled: Float[Tensor, "batch d_in"], workers: Workers = ALONE) -> Features:
        """ReLU((x − b_dec) W_enc + b_enc), nothing subtracted where there is no pre-encoder bias."""
        return encode_relu(scaled, self.center(workers), self.W_enc, self.b_enc, self.encode_dtype)

    def errors(self, target: Float[Tensor, "batch d_out"], reconstruction: Float[Tensor, "batch d_out"]) -> Float[Tensor, " batch"]:
        """Return what the loss takes of each vector's error, in scaled units."""
        return mean_squared_errors(target, reconstruction)

    def penalties(self, features: Features) -> Float[Tensor, " batch"]:
        """Return what the loss takes of each vector's features, before its coefficient; of the features that this process holds."""
        return l1_norms(features)

    def training_pass(self, x: Float[Tensor, "batch d_in"], context: StepContext = FIRST_STEP) -> TrainingPass:
        """Loss terms `reconstruction` and `sparsity`; dead features are left to resampling."""
        workers, rows = context.workers, context.workers.num_rows(len(x))
        scaled = self.scaled(x)
        target = self.scaled_target(x, context.target) if self.is_transcoder or context.target is not None else scaled
        features = self.features(scaled, workers)
        reconstruction = self.decode_scaled(features, workers)
        losses = {
            "reconstruction": self.errors(target, reconstruction).sum() / rows,
            "sparsity": context.sparsity_scale * self.config.l1_coefficient * workers.sum_features(self.penalties(features)).sum() / rows,
        }
        return self.result(losses, reconstruction, features)

    @torch.no_grad()
    def vector_losses(self, x: Float[Tensor, "batch d_in"], context: StepContext = FIRST_STEP) -> Float[Tensor, " batch"]:
        """The two terms of each vector, at full l1_coefficient."""
        features = self.features(self.scaled(x), context.workers)
        errors = self.errors(self.scaled_target(x, context.target), self.decode_scaled(features, context.workers))
        return errors + self.config.l1_coefficient * context.workers.sum_features(self.penalties(features))
