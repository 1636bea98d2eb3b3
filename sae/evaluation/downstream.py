"""What the subject model's predictions lose when the reconstruction takes the activation's place.

Tokens of the vocabulary are many, so logits are compared a few rows at a time: a whole batch of them is held once for the clean model and
once for the pass compared with it, and nothing of their size is made in between.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from sae.config import Config
from sae.evaluation.accumulators import SequenceLosses, Sums, ratio

CHUNK_ELEMENTS = {"cpu": 2**17, "cuda": 2**26}  # logits at a time; on a CPU, what stays in its second-level cache
KL_BINS_PER_DECADE = 100
KL_LOG10_EDGES = np.linspace(-9, 3, 12 * KL_BINS_PER_DECADE + 1)
KL_QUANTILES = (0.5, 0.9, 0.99)
BOOTSTRAP_SAMPLES = 1000

Interval = tuple[float, float]


class Passes(Config):
    """One figure for each way to run the model."""

    clean: float
    spliced: float = Field(description="reconstruction in place of the activation")
    zero_ablated: float = Field(description="zeros in place of the activation")
    mean_ablated: float = Field(description="the store's mean activation in its place")


class KLDivergence(Config):
    """KL(clean ‖ spliced) of the next-token distributions, in nats per prediction."""

    mean: float
    quantiles: dict[str, float] = Field(description="by name (`p50`), to 2.4 %; values below 1e-9 show as 0")


class DownstreamFigures(Config):
    """Predictions over the whole evaluation set. Loss recovered is null where ablation changes nothing."""

    num_sequences: int
    num_predictions: int = Field(description="next tokens predicted: special tokens and the last of each sequence predict none")
    cross_entropy: Passes = Field(description="nats per prediction")
    perplexity: Passes = Field(description="exp of the cross-entropy")
    loss_recovered_zero: float | None = Field(description="(CE_zero − CE_spliced) / (CE_zero − CE_clean)")
    loss_recovered_zero_interval: Interval | None = Field(description="95 % bootstrap interval over sequences")
    loss_recovered_mean: float | None = Field(description="(CE_mean − CE_spliced) / (CE_mean − CE_clean)")
    loss_recovered_mean_interval: Interval | None = Field(description="95 % bootstrap interval over sequences")
    kl_divergence: KLDivergence
    top1_agreement: float = Field(description="share of predictions whose likeliest token is that of the clean model")


@dataclass
class DownstreamSums(Sums):
    """Sums behind the figures.

    Attributes:
        losses: cross-entropies by sequence.
        kl_divergence: sum of KL(clean ‖ spliced) in nats.
        kl_histogram: int64, predictions by log10 of their KL divergence, bins between `KL_LOG10_EDGES`.
        agreeing: predictions whose likeliest token is unchanged.
    """

    losses: SequenceLosses
    kl_divergence: float
    kl_histogram: np.ndarray
    agreeing: int

    def figures(self, seed: int) -> DownstreamFigures:
        """The figures of all sequences; `seed` draws the bootstrap samples."""
        losses = self.losses
        predictions = int(losses.predictions.sum())
        entropies = {name: float(getattr(losses, name).sum()) / predictions for name in Passes.model_fields}
        zero, zero_interval = loss_recovered(losses.clean, losses.spliced, losses.zero_ablated, seed)
        mean, mean_interval = loss_recovered(losses.clean, losses.spliced, losses.mean_ablated, seed)
        return DownstreamFigures(
            num_sequences=len(losses.sequence_ids),
            num_predictions=predictions,
            cross_entropy=Passes(**entropies),
            perplexity=Passes(**{name: math.exp(min(value, 700.0)) for name, value in entropies.items()}),
            loss_recovered_zero=zero,
            loss_recovered_zero_interval=zero_interval,
            loss_recovered_mean=mean,
            loss_recovered_mean_interval=mean_interval,
            kl_divergence=KLDivergence(mean=self.kl_divergence / predictions, quantiles=_kl_quantiles(self.kl_histogram)),
            top1_agreement=self.agreeing / predictions,
        )


def loss_recovered(clean: np.ndarray, spliced: np.ndarray, ablated: np.ndarray, seed: int) -> tuple[float | None, Interval | None]:
    """Loss recovered, `(CE_ablated − CE_spliced) / (CE_ablated − CE_clean)`, and its 95 % interval.

    The interval is the percentile bootstrap: sequences are drawn with replacement 1,000 times. None where there is nothing to recover, or
    a single sequence to draw from.

    Reference: Bricken et al. 2023, "Towards Monosemanticity", which ablates with zeros.

    Args:
        clean: float64 `[sequences]`, summed cross-entropies of the untouched model.
        spliced: the same with the reconstruction in place.
        ablated: the same with the activation ablated.
        seed: of the bootstrap.
    """
    gains = np.stack([ablated - spliced, ablated - clean], axis=1)
    recovered = ratio(*gains.sum(0))
    if recovered is None or len(gains) < 2:
        return recovered, None
    draw = np.random.default_rng(seed)
    samples = np.array([gains[draw.integers(len(gains), size=len(gains))].sum(0) for _ in range(BOOTSTRAP_SAMPLES)])
    defined = samples[samples[:, 1] != 0]
    low, high = np.quantile(defined[:, 0] / defined[:, 1], [0.025, 0.975])
    return recovered, (float(low), float(high))


@torch.no_grad()
def next_token_losses(logits: Float[Tensor, "batch sequence d_vocab"], tokens: Int[Tensor, "batch sequence"]) -> Float[Tensor, "batch predictions"]:
    """Cross-entropy in nats of each token after the first: `−log softmax(logits)[next token]`, in float32."""
    rows, targets = _next_token_rows(logits, tokens)
    losses = [-chunk.log_softmax(-1).gather(-1, targets[part][:, None])[:, 0] for part, chunk in _chunks(rows)]
    return torch.cat(losses).unflatten(0, tokens.shape)[:, :-1]


@dataclass
class Comparison:
    """A pass beside the clean one, for every position but the last.

    Attributes:
        losses: cross-entropy of the pass in nats.
        kl_divergence: KL(clean ‖ pass) in nats.
        agrees: whether the likeliest token is that of the clean model.
    """

    losses: Float[Tensor, "batch predictions"]
    kl_divergence: Float[Tensor, "batch predictions"]
    agrees: Bool[Tensor, "batch predictions"]


@torch.no_grad()
def compare(
    clean: Float[Tensor, "batch sequence d_vocab"], logits: Float[Tensor, "batch sequence d_vocab"], tokens: Int[Tensor, "batch sequence"]
) -> Comparison:
    """Compare the predictions of a pass with those of the clean model.

    `KL = sum_v p(v) (log p(v) − log q(v))`, p clean and q of the pass, in float32; what rounding makes of a KL below 0 counts as 0.

    Args:
        clean: logits of the clean model.
        logits: logits of the pass.
        tokens: what both were run on.
    """
    clean_rows, targets = _next_token_rows(clean, tokens)
    rows, _ = _next_token_rows(logits, tokens)
    losses, divergences, agreements = [], [], []
    for (part, chunk), (_, clean_chunk) in zip(_chunks(rows), _chunks(clean_rows), strict=True):
        log_q, log_p = chunk.log_softmax(-1), clean_chunk.log_softmax(-1)
        losses.append(-log_q.gather(-1, targets[part][:, None])[:, 0])
        agreements.append(log_q.gather(-1, clean_chunk.argmax(-1, keepdim=True))[:, 0] == log_q.amax(-1))
        divergences.append(torch.linalg.vecdot(log_p.exp(), log_p - log_q).clamp(min=0))
    columns = [torch.cat(parts).unflatten(0, tokens.shape)[:, :-1] for parts in (losses, divergences, agreements)]
    return Comparison(*columns)


def kl_histogram(divergences: Float[Tensor, " predictions"]) -> np.ndarray:
    """Int64 counts of KL divergences between `KL_LOG10_EDGES`; the outermost bins take what lies beyond."""
    logs = np.log10(divergences.double().cpu().numpy().clip(1e-300)).clip(KL_LOG10_EDGES[0], KL_LOG10_EDGES[-1])
    return np.histogram(logs, KL_LOG10_EDGES)[0]


def _kl_quantiles(histogram: np.ndarray) -> dict[str, float]:
    cumulative = histogram.cumsum()
    bins = {quantile: int(np.searchsorted(cumulative, quantile * cumulative[-1])) for quantile in KL_QUANTILES}
    middles = 10 ** ((KL_LOG10_EDGES[1:] + KL_LOG10_EDGES[:-1]) / 2)
    return {f"p{100 * quantile:g}": float(middles[index]) if index else 0.0 for quantile, index in bins.items()}


def _next_token_rows(
    logits: Float[Tensor, "batch sequence d_vocab"], tokens: Int[Tensor, "batch sequence"]
) -> tuple[Float[Tensor, "rows d_vocab"], Int[Tensor, " rows"]]:
    # The last position of a sequence predicts nothing known. It keeps a row, with any target: leaving it out would copy all logits.
    return logits.flatten(0, 1), tokens.roll(-1, dims=1).flatten()


def _chunks(rows: Float[Tensor, "rows d_vocab"]) -> Iterator[tuple[slice, Float[Tensor, "chunk d_vocab"]]]:
    size = max(1, CHUNK_ELEMENTS.get(rows.device.type, CHUNK_ELEMENTS["cuda"]) // rows.shape[1])
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        yield part, rows[part].float()
