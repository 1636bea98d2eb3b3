"""The JumpReLU autoencoder."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from sae.architectures.base import FIRST_STEP, Dictionary, StepContext, TrainingPass
from sae.architectures.config import JumpReluConfig
from sae.kernels.jumps import jump_relu, step
from sae.kernels.selection import encode_above, fired, map_values
from sae.kernels.sparse import Features, feature_sums
from sae.losses import mean_squared_errors
from sae.parallel.workers import ALONE, Workers


class JumpReluDictionary(Dictionary):
    """z = x W_enc + b_enc, f_i = z_i H(z_i − θ_i), x̂ = f W_dec + b_dec, with unit-norm rows of W_dec and θ = exp(log_threshold).

    L = mean over the batch of ‖x − x̂‖² + l0_coefficient ‖f‖₀, on activations of mean squared norm 1. Here the mean norm is √d_in: the
    error is divided by d_in, and the configuration's bandwidth and threshold are multiplied by √d_in, which is the same, so that
    published coefficients hold.

    The step has a straight-through gradient for θ alone (`sae.kernels.jumps`): besides what fires it needs the entries within half a
    bandwidth below the threshold, and no others.

    Reference: Rajamanoharan et al. 2024 (arXiv 2407.14435), sections 3 and 4, and Lieberum et al. 2024, Gemma Scope (arXiv 2408.05147):
        no pre-encoder bias, W_dec He-uniform with rows normalised, W_enc its transpose, biases 0; Adam with beta1 = 0, a cosine warm-up of the
        rate and a linear one of the penalty. Adam moves log θ by about its rate a step, so short runs need a threshold that
        starts near where it ends, and a wider window.
    """

    feature_parallel = True
    config: JumpReluConfig
    pre_encoder_bias = False
    feature_axes = {"W_enc": 1, "b_enc": 0, "W_dec": 0, "log_threshold": 0}  # noqa: RUF012  # a ClassVar already where it is declared

    def build(self) -> None:
        """The logarithm of the threshold, in scaled units, beside the other parameters."""
        super().build()
        self.log_threshold = nn.Parameter(torch.empty(self.d_sae))

    @property
    def threshold(self) -> Float[Tensor, " d_sae"]:
        """θ, in scaled units."""
        return self.log_threshold.exp()

    @property
    def bandwidth(self) -> float:
        """Width of the window around a threshold, in scaled units."""
        return self.config.bandwidth * math.sqrt(self.d_in)

    @torch.no_grad()
    def initialize(self, b_dec: Float[Tensor, " d_out"], generator: torch.Generator) -> None:
        """W_dec He-uniform with rows normalised, the encoder its transpose (drawn likewise in a transcoder), biases 0 (`b_dec` is not used)."""
        for weight in (self.W_dec, self.W_enc.T):
            drawn = torch.empty(weight.shape)
            nn.init.kaiming_uniform_(drawn, generator=generator)
            weight.copy_(normalize(drawn))
        if not self.is_transcoder:
            self.W_enc.copy_(self.W_dec.T)
        self.b_enc.zero_()
        self.b_dec.zero_()
        self.log_threshold.fill_(math.log(self.config.threshold_start * math.sqrt(self.d_in)))

    def features(self, scaled: Float[Tensor, "batch d_in"], workers: Workers = ALONE) -> Features:
        """The entries of x W_enc + b_enc above their threshold."""
        threshold = self.threshold
        entries = encode_above(scaled, self.center(workers), self.W_enc, self.b_enc, threshold, self.encode_dtype)
        return map_values(entries, lambda z, theta: jump_relu(z, theta, self.bandwidth), threshold)

    def training_pass(self, x: Float[Tensor, "batch d_in"], context: StepContext = FIRST_STEP) -> TrainingPass:
        """Loss terms `reconstruction` and `sparsity`."""
        workers, rows = context.workers, context.workers.num_rows(len(x))
        threshold, width = self.threshold, self.bandwidth
        entries = encode_above(self.scaled(x), self.center(workers), self.W_enc, self.b_enc, threshold - width / 2, self.encode_dtype)
        features = map_values(entries, lambda z, theta: jump_relu(z, theta, width), threshold)
        fires = map_values(entries, lambda z, theta: step(z, theta, width), threshold)
        reconstruction = self.decode_scaled(features, workers)
        losses = {
            "reconstruction": mean_squared_errors(self.scaled_target(x, context.target), reconstruction).sum() / rows,
            "sparsity": context.sparsity_scale * self.config.l0_coefficient * workers.sum_features(feature_sums(fires)).sum() / rows,
        }
        return self.result(losses, reconstruction, fired(features))
