"""The Matryoshka BatchTopK autoencoder."""

from itertools import accumulate

import torch
from jaxtyping import Float
from torch import Tensor

from sae.architectures.batch_topk import BatchTopKDictionary
from sae.architectures.config import MatryoshkaConfig
from sae.kernels.features import decode_features
from sae.kernels.selection import split_rows
from sae.kernels.sparse import SparseFeatures
from sae.losses import normalized_squared_error
from sae.parallel.workers import Workers


class MatryoshkaDictionary(BatchTopKDictionary):
    """BatchTopK whose features are nested: for each prefix m, x̂_m = f_{<m} W_dec,{<m} + b_dec must reconstruct x by itself.

    L = mean over the prefixes of Σ‖x − x̂_m‖² / Σ‖x − x̄‖², plus the auxiliary term of TopK on the error of the whole. The prefixes end
    where the groups of `group_fractions` do. All of them come of one sparse product: each row's features are split by group, decoded
    once, and summed up group after group.

    Reference: Bussmann et al. 2025 (arXiv 2503.17547), with the mean over prefixes of their code where the paper has the sum; the
        default fractions are SAEBench's. Deviation: normalised errors, as in `BatchTopKDictionary`. Their code shares features out with
        BatchTopK over all groups together, as here.
    """

    config: MatryoshkaConfig
    # Every prefix's partial reconstruction would have to be summed over workers: as many times the traffic as there are prefixes.
    feature_parallel = False

    def reconstruction_loss(
        self, features: SparseFeatures, target: Float[Tensor, "batch d_out"], workers: Workers
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "batch d_out"]]:
        """The mean over prefixes of the normalised squared error, and the reconstruction by all features."""
        sizes = self.config.group_sizes
        starts = torch.tensor(list(accumulate(sizes))[:-1], device=target.device)
        by_group = decode_features(split_rows(features, starts), self.W_dec).view(len(target), len(sizes), self.d_out)
        prefixes = by_group.cumsum(1) + self.b_dec
        return normalized_squared_error(target[:, None], prefixes, workers) / len(sizes), prefixes[:, -1]
