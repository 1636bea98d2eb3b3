"""The ReLU autoencoder as Anthropic trains it since April 2024."""

import torch
from jaxtyping import Float
from torch import Tensor

from sae.architectures.config import ReluAprilConfig
from sae.architectures.relu import ReluDictionary
from sae.kernels.sparse import Features
from sae.losses import squared_errors, weighted_l1_norms

DECODER_NORM_AT_START = 0.1


class ReluAprilDictionary(ReluDictionary):
    """f = ReLU(x W_enc + b_enc), x̂ = f W_dec + b_dec, with W_dec free: no unit norm, no pre-encoder bias, no resampling.

    L = mean over the batch of ‖x − x̂‖² + l1_coefficient Σ_i f_i ‖W_dec,i‖: a sum over elements and a sum over features, on
    activations scaled so that the mean norm is √d_in. Weighted by the norms, the penalty cannot be dodged by small features with long
    directions, and W_dec needs no constraint.

    The rest of the recipe is schedules, in a dictionary's configuration: `sparsity_warm_up_fraction` 0.05, `optimizer.decay_fraction`
    0.2, `optimizer.max_gradient_norm` 1, no `resampling`.

    Reference: Conerly et al. 2024, Transformer Circuits, Circuits Updates April 2024, "Update on how we train SAEs". The rows of W_dec
        start with norm 0.1, of the 0.05 to 1 that they name, W_enc as their transpose, all biases at 0.
    """

    config: ReluAprilConfig  # type: ignore[assignment]
    unit_norm_decoder = False
    pre_encoder_bias = False

    @torch.no_grad()
    def initialize(self, b_dec: Float[Tensor, " d_out"], generator: torch.Generator) -> None:
        """Decoder rows of random direction and norm 0.1, the encoder their transpose, biases 0 (`b_dec` is not used)."""
        self.draw_directions(generator)
        self.W_dec.mul_(DECODER_NORM_AT_START)
        self.W_enc.mul_(DECODER_NORM_AT_START)
        self.b_enc.zero_()
        self.b_dec.zero_()

    def errors(self, target: Float[Tensor, "batch d_out"], reconstruction: Float[Tensor, "batch d_out"]) -> Float[Tensor, " batch"]:
        """‖x − x̂‖² of each vector."""
        return squared_errors(target, reconstruction)

    def penalties(self, features: Features) -> Float[Tensor, " batch"]:
        """Σ_i f_i ‖W_dec,i‖ of each vector."""
        return weighted_l1_norms(features, self.W_dec)
