"""The ReLU autoencoder as Anthropic trains it since April 2024."""

import torch
from jaxtyping import Float
from torch import Tensor

from sae.architectures.base import FIRST_STEP, Dictionary, StepContext, TrainingPass
from sae.architectures.config import ReluAprilConfig
from sae.kernels.features import encode_relu
from sae.kernels.sparse import Features
from sae.losses import squared_errors, weighted_l1_norms
from sae.parallel import ALONE, Workers

DECODER_NORM_AT_START = 0.1


class ReluAprilDictionary(Dictionary):
    """f = ReLU(x W_enc + b_enc), x̂ = f W_dec + b_dec, with W_dec free: no unit norm, no pre-encoder bias, no resampling.

    L = mean over the batch of ‖x − x̂‖² + l1_coefficient Σ_i f_i ‖W_dec,i‖: a sum over elements and a sum over features, on
    activations scaled so that the mean norm is √d_in. Weighted by the norms, the penalty cannot be dodged by small features with long
    directions, and W_dec needs no constraint.

    The rest of the recipe is schedules, in a dictionary's configuration: `sparsity_warm_up_fraction` 0.05, `optimizer.decay_fraction`
    0.2, `optimizer.max_gradient_norm` 1, no `resampling`.

    Reference: Conerly et al. 2024, Transformer Circuits, Circuits Updates April 2024, "Update on how we train SAEs". The rows of W_dec
        start with norm 0.1, of the 0.05 to 1 that they name, W_enc as their transpose, all biases at 0.
    """

    config: ReluAprilConfig
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

    def features(self, scaled: Float[Tensor, "batch d_in"], workers: Workers = ALONE) -> Features:
        """ReLU(x W_enc + b_enc)."""
        return encode_relu(scaled, self.center(workers), self.W_enc, self.b_enc, self.encode_dtype)

    def training_pass(self, x: Float[Tensor, "batch d_in"], context: StepContext = FIRST_STEP) -> TrainingPass:
        """Loss terms `reconstruction` and `sparsity`."""
        workers, rows = context.workers, context.workers.num_rows(len(x))
        features = self.features(self.scaled(x), workers)
        reconstruction = self.decode_scaled(features, workers)
        norms = workers.sum_features(weighted_l1_norms(features, self.W_dec))
        losses = {
            "reconstruction": squared_errors(self.scaled_target(x, context.target), reconstruction).sum() / rows,
            "sparsity": context.sparsity_scale * self.config.l1_coefficient * norms.sum() / rows,
        }
        return self.result(losses, reconstruction, features)

    @torch.no_grad()
    def vector_losses(self, x: Float[Tensor, "batch d_in"], context: StepContext = FIRST_STEP) -> Float[Tensor, " batch"]:
        """The two terms of each vector, at full l1_coefficient."""
        features = self.features(self.scaled(x), context.workers)
        errors = squared_errors(self.scaled_target(x, context.target), self.decode_scaled(features, context.workers))
        return errors + self.config.l1_coefficient * context.workers.sum_features(weighted_l1_norms(features, self.W_dec))
