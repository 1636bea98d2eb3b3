"""The ReLU autoencoder with p-annealing."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae.architectures.base import FIRST_STEP, StepContext, TrainingPass
from sae.architectures.config import PAnnealingConfig
from sae.architectures.relu import ENCODER_NORM_AT_START, ReluDictionary
from sae.kernels.sparse import Features
from sae.losses import mean_squared_errors, power_norms
from sae.parallel.workers import Workers

# A share of steps and the share at which a change is due are the same number up to how it was computed.
ROUNDING = 1e-9


class PAnnealingDictionary(ReluDictionary):
    """f = ReLU((x − b_dec) W_enc + b_enc), x̂ = f W_dec + b_dec, unit-norm rows of W_dec, under a penalty whose power p falls over the run.

    L = mean over the batch of ‖x − x̂‖² + λ Σ_i f_i^p, on activations of mean squared norm 1 (here the mean norm is √d_in: errors are
    divided by d_in, features by √d_in). p takes `num_changes` evenly spaced values from 1 to p_end, at evenly spaced fractions of the
    run. Whenever it changes, λ is multiplied by mean(Σ f^p) / mean(Σ f^p') over a queue of recent batches, so that the penalty as a
    whole stays as it was. The queue and the factor are buffers: a resumed run goes on with them.

    Reference: Karvonen et al. 2024 (arXiv 2408.00113), and their code (PAnnealTrainer, sparsity function Lp^p): the fractions run
        from anneal_start to anneal_end inclusive, so with the default end of 1, p_end itself is the value after the
        last step. The start is that of their AutoEncoder.
    """

    config: PAnnealingConfig  # type: ignore[assignment]
    changes: Int[Tensor, ""]
    factor: Float[Tensor, ""]
    queue: Float[Tensor, "queue_length 2"]
    queued: Int[Tensor, ""]

    def build(self) -> None:
        """Make the parameters and the buffers of annealing."""
        super().build()
        self.register_buffer("changes", torch.zeros((), dtype=torch.int64))
        self.register_buffer("factor", torch.ones(()))
        self.register_buffer("queue", torch.zeros(self.config.queue_length, 2))
        self.register_buffer("queued", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def initialize(self, b_dec: Float[Tensor, " d_out"], generator: torch.Generator) -> None:
        """Decoder rows of random direction, the encoder a tenth of their transpose, b_enc = 0; nothing annealed."""
        self.draw_directions(generator)
        self.W_enc.mul_(ENCODER_NORM_AT_START)
        self.b_enc.zero_()
        self.b_dec.copy_(b_dec)
        for buffer, start in ((self.changes, 0), (self.factor, 1), (self.queue, 0), (self.queued, 0)):
            buffer.fill_(start)

    def training_pass(self, x: Float[Tensor, "batch d_in"], context: StepContext = FIRST_STEP) -> TrainingPass:
        """Loss terms `reconstruction` and `sparsity`; p may change after it, for the next step."""
        workers, rows = context.workers, context.workers.num_rows(len(x))
        features = self.features(self.scaled(x), workers)
        reconstruction = self.decode_scaled(features, workers)
        penalty = self._penalties(features, self.power(int(self.changes) - 1), workers).sum() / rows
        losses = {
            "reconstruction": mean_squared_errors(self.scaled_target(x, context.target), reconstruction).sum() / rows,
            "sparsity": context.sparsity_scale * self.config.l1_coefficient * self.factor.item() * penalty,
        }
        self._anneal(penalty.detach(), features.detach(), rows, context)
        return self.result(losses, reconstruction, features)

    @torch.no_grad()
    def vector_losses(self, x: Float[Tensor, "batch d_in"], context: StepContext = FIRST_STEP) -> Float[Tensor, " batch"]:
        """The two terms of each vector, at the present p and the full coefficient."""
        features = self.features(self.scaled(x), context.workers)
        errors = mean_squared_errors(self.scaled_target(x, context.target), self.decode_scaled(features, context.workers))
        return errors + self.config.l1_coefficient * self.factor * self._penalties(features, self.power(int(self.changes) - 1), context.workers)

    def power(self, change: int) -> float:
        """The power p after change number `change`, counted from 0."""
        share = min(max(change, 0) / (self.config.num_changes - 1), 1.0)
        return 1 + share * (self.config.p_end - 1)

    def _penalties(self, features: Features, p: float, workers: Workers) -> Float[Tensor, " batch"]:
        return workers.sum_features(power_norms(features, p)) * self.d_in ** (-p / 2)

    @torch.no_grad()
    def _anneal(self, penalty: Float[Tensor, ""], features: Features, rows: int, context: StepContext) -> None:
        config, changes = self.config, int(self.changes)
        if changes > 0:
            upcoming = self._penalties(features, self.power(changes), context.workers).sum() / rows
            self.queue.copy_(torch.cat([self.queue[1:], context.workers.sum_rows(torch.stack([penalty, upcoming]))[None]]))
            self.queued.add_(1).clamp_(max=config.queue_length)
        due = config.anneal_start + (config.anneal_end - config.anneal_start) * changes / (config.num_changes - 1)
        if changes < config.num_changes and context.fraction >= due - ROUNDING:
            recent = self.queue[config.queue_length - int(self.queued) :].mean(0)
            if changes > 0 and bool((recent > 0).all()) and math.isfinite(recent.sum()):
                self.factor.mul_(recent[0] / recent[1])
            self.changes.add_(1)
