"""The Gated autoencoder."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae.architectures.base import FIRST_STEP, Dictionary, StepContext, TrainingPass
from sae.architectures.config import GatedConfig
from sae.kernels.features import decode_features
from sae.kernels.selection import encode_above, fired, map_values
from sae.kernels.sparse import Features
from sae.losses import l1_norms, mean_squared_errors
from sae.parallel.workers import ALONE, Workers


class GatedDictionary(Dictionary):
    """π = (x − b_dec) W_enc + b_gate, f = 1[π > 0] · ReLU(exp(r_mag) · (x − b_dec) W_enc + b_mag), x̂ = f W_dec + b_dec; unit-norm W_dec.

    L = mean over the batch of ‖x − x̂‖² + l1_coefficient ‖ReLU(π)‖₁ + ‖x − x̂_frozen(ReLU(π))‖², where the last reconstruction is by the
    decoder as a constant: it trains the gate, whose step has no gradient. All on activations of mean squared norm 1; here the mean
    norm is √d_in, so errors are divided by d_in and the gate's activations by √d_in, and published coefficients hold.

    Reference: Rajamanoharan et al. 2024 (arXiv 2404.16014): encoder the decoder's transpose, biases and r_mag 0, Adam with
        beta1 = 0.
    """

    feature_parallel = True
    config: GatedConfig
    feature_axes = {"W_enc": 1, "b_gate": 0, "b_mag": 0, "r_mag": 0, "W_dec": 0}  # noqa: RUF012  # a ClassVar already where it is declared

    def build(self) -> None:
        """Two biases and a rescaling in the place of b_enc."""
        self.W_enc = nn.Parameter(torch.empty(self.d_in, self.d_sae))
        self.b_gate = nn.Parameter(torch.zeros(self.d_sae))
        self.b_mag = nn.Parameter(torch.zeros(self.d_sae))
        self.r_mag = nn.Parameter(torch.zeros(self.d_sae))
        self.W_dec = nn.Parameter(torch.empty(self.d_sae, self.d_out))
        self.b_dec = nn.Parameter(torch.zeros(self.d_out))

    @torch.no_grad()
    def initialize(self, b_dec: Float[Tensor, " d_out"], generator: torch.Generator) -> None:
        """Decoder rows of random direction, the encoder their transpose, b_gate, b_mag and r_mag 0."""
        self.draw_directions(generator)
        for parameter in (self.b_gate, self.b_mag, self.r_mag):
            parameter.zero_()
        self.b_dec.copy_(b_dec)

    def features(self, scaled: Float[Tensor, "batch d_in"], workers: Workers = ALONE) -> Features:
        """The magnitudes where the gate is open."""
        return self._magnitudes(self._products(scaled, workers))

    def training_pass(self, x: Float[Tensor, "batch d_in"], context: StepContext = FIRST_STEP) -> TrainingPass:
        """Loss terms `reconstruction`, `sparsity` and `auxiliary`, the last that of the gate's own reconstruction."""
        workers, rows = context.workers, context.workers.num_rows(len(x))
        target = self.scaled_target(x, context.target)
        products = self._products(self.scaled(x), workers)
        features = self._magnitudes(products)
        reconstruction = self.decode_scaled(features, workers)
        gates = map_values(products, lambda product, b_gate: torch.relu(product + b_gate), self.b_gate)
        by_gates = workers.sum_features(decode_features(gates, self.W_dec.detach())) + self.b_dec.detach()
        norms = workers.sum_features(l1_norms(gates)) / math.sqrt(self.d_in)
        losses = {
            "reconstruction": mean_squared_errors(target, reconstruction).sum() / rows,
            "sparsity": context.sparsity_scale * self.config.l1_coefficient * norms.sum() / rows,
            "auxiliary": mean_squared_errors(target, by_gates).sum() / rows,
        }
        return self.result(losses, reconstruction, fired(features))

    def _products(self, scaled: Float[Tensor, "batch d_in"], workers: Workers) -> Features:
        # (x − b_dec) W_enc, without either bias, wherever the gate is open.
        return encode_above(scaled, self.center(workers), self.W_enc, torch.zeros_like(self.b_gate), -self.b_gate, self.encode_dtype)

    def _magnitudes(self, products: Features) -> Features:
        return map_values(products, _magnitude, self.b_gate, self.b_mag, self.r_mag)


def _magnitude(
    product: Float[Tensor, "..."], b_gate: Float[Tensor, "..."], b_mag: Float[Tensor, "..."], r_mag: Float[Tensor, "..."]
) -> Float[Tensor, "..."]:
    return torch.where(product + b_gate > 0, torch.relu(r_mag.exp() * product + b_mag), 0.0)
