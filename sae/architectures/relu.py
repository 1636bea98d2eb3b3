"""The ReLU autoencoder with an L1 penalty."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sae.architectures.base import Dictionary, TrainingPass
from sae.architectures.config import ReluConfig
from sae.kernels.features import decode_features, encode_relu
from sae.kernels.sparse import Features
from sae.losses import l1_norms, mean_squared_errors


class ReluDictionary(Dictionary):
    """f = ReLU((x − b_dec) W_enc + b_enc), x̂ = f W_dec + b_dec, with unit-norm rows of W_dec.

    L = mean over the batch of (1/d_in) ‖x − x̂‖² + l1_coefficient Σ_i f_i: a mean over elements against a sum over features.

    Reference: Bricken et al. 2023, Towards Monosemanticity, appendix "Sparse Autoencoders". Their weights start as torch's linear
        layers do (Kaiming-uniform, bound 1/√fan_in); the start of b_enc is not stated, here 0.
    """

    config: ReluConfig

    @torch.no_grad()
    def initialize(self, b_dec: Float[Tensor, " d_in"], generator: torch.Generator) -> None:
        """Kaiming-uniform weights, unit-norm decoder rows, b_enc = 0."""
        for weight, fan_in in ((self.W_enc, self.d_in), (self.W_dec, self.d_sae)):
            drawn = torch.empty(weight.shape)
            nn.init.uniform_(drawn, -(fan_in**-0.5), fan_in**-0.5, generator=generator)
            weight.copy_(drawn)
        self.b_enc.zero_()
        self.b_dec.copy_(b_dec)
        self.after_step()

    def features(self, scaled: Float[Tensor, "batch d_in"]) -> Features:
        """ReLU((x − b_dec) W_enc + b_enc)."""
        return encode_relu(scaled, self.b_dec, self.W_enc, self.b_enc)

    def training_pass(self, x: Float[Tensor, "batch d_in"], dead: Bool[Tensor, " d_sae"] | None = None, sparsity_scale: float = 1.0) -> TrainingPass:
        """Loss terms `reconstruction` and `sparsity`; dead features are left to resampling."""
        scaled = self.scaled(x)
        features = self.features(scaled)
        reconstruction = decode_features(features, self.W_dec) + self.b_dec
        losses = {
            "reconstruction": mean_squared_errors(scaled, reconstruction).mean(),
            "sparsity": sparsity_scale * self.config.l1_coefficient * l1_norms(features).mean(),
        }
        losses["total"] = losses["reconstruction"] + losses["sparsity"]
        return TrainingPass(losses, reconstruction.detach() / self.input_scale, features.detach())

    @torch.no_grad()
    def vector_losses(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, " batch"]:
        """The two terms of each vector, at full l1_coefficient."""
        scaled = self.scaled(x)
        features = self.features(scaled)
        reconstruction = decode_features(features, self.W_dec) + self.b_dec
        return mean_squared_errors(scaled, reconstruction) + self.config.l1_coefficient * l1_norms(features)
