"""The BatchTopK autoencoder."""

import torch
from jaxtyping import Float
from torch import Tensor

from sae.architectures.config import BatchTopKConfig
from sae.architectures.topk import TopKDictionary
from sae.kernels.features import encode_at
from sae.kernels.selection import encode_above, map_values, support_batch_topk
from sae.kernels.sparse import Features, SparseFeatures
from sae.parallel.workers import ALONE, Workers


class BatchTopKDictionary(TopKDictionary):
    """TopK over a whole batch: f keeps the k · batch largest entries of ReLU((x − b_dec) W_enc + b_enc), whichever rows they lie in.

    In evaluation a row cannot know its batch: there f keeps the entries above `threshold`, a running mean over training of the smallest
    entry kept. Losses, x̂ and the auxiliary term are those of TopK. Entries equal to the smallest are all kept.

    Reference: Bussmann et al. 2024 (arXiv 2412.06410); the threshold is their average of the smallest kept entry, as an
        exponential mean of stated decay. Deviation: errors are normalised by the batch's variance, as in Gao et al., where their code
        takes means over elements of inputs that it standardises vector by vector; no such standardisation here.
    """

    config: BatchTopKConfig
    threshold: Float[Tensor, ""]

    def build(self) -> None:
        """The threshold beside the parameters; 0 until the first training pass."""
        super().build()
        self.register_buffer("threshold", torch.zeros(()))

    @torch.no_grad()
    def initialize(self, b_dec: Float[Tensor, " d_out"], generator: torch.Generator) -> None:
        """As TopK, without a threshold."""
        super().initialize(b_dec, generator)
        self.threshold.zero_()

    def features(self, scaled: Float[Tensor, "batch d_in"], workers: Workers = ALONE) -> Features:
        """The entries of (x − b_dec) W_enc + b_enc above the threshold."""
        entries = encode_above(scaled, self.center(workers), self.W_enc, self.b_enc, self.threshold, self.encode_dtype)
        return map_values(entries, lambda z: torch.where(z > self.threshold, z, 0.0))

    def training_features(self, scaled: Float[Tensor, "batch d_in"], workers: Workers) -> SparseFeatures:
        """The k · batch largest entries of the whole batch; follows them with the threshold."""
        center = self.center(workers)
        support, smallest = support_batch_topk(scaled, center, self.W_enc, self.b_enc, self.config.k, workers, self.encode_dtype)
        self._follow(smallest)
        return encode_at(scaled, center, self.W_enc, self.b_enc, support)

    @torch.no_grad()
    def _follow(self, smallest: Float[Tensor, ""]) -> None:
        weight = 1.0 if self.threshold == 0 else 1 - self.config.threshold_decay
        if torch.isfinite(smallest):
            self.threshold.lerp_(smallest, weight)
