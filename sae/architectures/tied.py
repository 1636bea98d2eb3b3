"""The tied autoencoder of Cunningham et al."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from sae.architectures.base import FIRST_STEP, Dictionary, StepContext, TrainingPass
from sae.architectures.config import TiedConfig
from sae.errors import ConfigError
from sae.kernels.features import decode_features, encode_relu
from sae.kernels.sparse import Features
from sae.losses import l1_norms, mean_squared_errors
from sae.parallel.workers import ALONE, Workers


class TiedDictionary(Dictionary):
    """f = ReLU(x Dᵀ + b_enc), x̂ = f D, where the rows of D are those of `M`, normalised in every pass: one matrix, used twice.

    L = mean over the batch of (1/d_in) ‖x − x̂‖² + l1_coefficient Σ_i f_i. W_dec is D, W_enc its transpose, b_dec 0: none of them a
    parameter. Nothing constrains the length of a row of M, which has no effect but on how fast Adam turns it.

    Reference: Cunningham et al. 2023 (arXiv 2309.08600), and their code (FunctionalTiedSAE): Xavier-uniform M, b_enc = 0,
        both terms means over the batch. Their coefficient of the main results, 8.577e-4, is for activations in raw units.
    """

    feature_parallel = True
    config: TiedConfig
    pre_encoder_bias = False
    feature_axes = {"M": 0, "b_enc": 0}  # noqa: RUF012  # a ClassVar already where it is declared

    def build(self) -> None:
        """M and b_enc; b_dec is 0 and no parameter."""
        if self.is_transcoder:
            raise ConfigError("architecture 'tied' has one matrix for encoder and decoder and cannot be a transcoder: choose another architecture")
        self.M = nn.Parameter(torch.empty(self.d_sae, self.d_in))
        self.b_enc = nn.Parameter(torch.zeros(self.d_sae))
        self.register_buffer("b_dec", torch.zeros(self.d_in), persistent=False)

    @property
    def W_dec(self) -> Float[Tensor, "d_sae d_in"]:  # type: ignore[override]  # noqa: N802
        """The features' directions: the rows of M at unit norm."""
        return normalize(self.M)

    @property
    def W_enc(self) -> Float[Tensor, "d_in d_sae"]:  # type: ignore[override]  # noqa: N802
        """The transpose of W_dec."""
        return self.W_dec.T

    @torch.no_grad()
    def initialize(self, b_dec: Float[Tensor, " d_out"], generator: torch.Generator) -> None:
        """Xavier-uniform M, b_enc = 0 (`b_dec` is not used)."""
        drawn = torch.empty(self.M.shape)
        nn.init.xavier_uniform_(drawn, generator=generator)
        self.M.copy_(drawn)
        self.b_enc.zero_()

    def features(self, scaled: Float[Tensor, "batch d_in"], workers: Workers = ALONE) -> Features:
        """ReLU(x Dᵀ + b_enc)."""
        return encode_relu(scaled, self.center(workers), self.W_enc, self.b_enc, self.encode_dtype)

    def training_pass(self, x: Float[Tensor, "batch d_in"], context: StepContext = FIRST_STEP) -> TrainingPass:
        """Loss terms `reconstruction` and `sparsity`."""
        workers, rows = context.workers, context.workers.num_rows(len(x))
        scaled, directions = self.scaled(x), self.W_dec
        features = encode_relu(scaled, self.center(workers), directions.T, self.b_enc, self.encode_dtype)
        reconstruction = workers.sum_features(decode_features(features, directions))
        losses = {
            "reconstruction": mean_squared_errors(scaled, reconstruction).sum() / rows,
            "sparsity": context.sparsity_scale * self.config.l1_coefficient * workers.sum_features(l1_norms(features)).sum() / rows,
        }
        return self.result(losses, reconstruction, features)

    def before_step(self) -> None:
        """Nothing: what would lengthen a row of M has no gradient."""

    def after_step(self) -> None:
        """Nothing: rows are normalised in every pass."""
