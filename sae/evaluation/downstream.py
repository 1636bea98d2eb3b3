"""Loss of the subject model's predictions when the reconstruction replaces the activation."""

import math
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from sae.config import Config
from sae.evaluation.accumulators import SequenceLosses, Sums
from sae.evaluation.breakdown import BreakdownSums, WorstFigures, WorstPredictions, worst_count
from sae.shares import ratio

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
    zero_ablated: float | None = Field(None, description="mean of KL(clean ‖ zero ablated), in nats per prediction")
    score: float | None = Field(None, description="(KL_zero − KL_spliced) / KL_zero, as SAEBench's kl_div_score; null where ablation changes nothing")


class DownstreamFigures(Config):
    """Predictions over the whole evaluation set. Loss recovered is null where ablation does not cost anything beyond noise."""

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
    worst_percent: WorstFigures | None = Field(None, description="the 1 % of predictions that the reconstruction changes most")
    not_defined: dict[str, str] = Field({}, description="the reason for each figure that is null because it would mean nothing")


@dataclass
class DownstreamSums(Sums):
    """Sums behind the figures.

    Attributes:
        losses: cross-entropies by sequence.
        kl_divergence: sum of KL(clean ‖ spliced) in nats.
        kl_histogram: int64, predictions by log10 of their KL divergence, bins between `KL_LOG10_EDGES`.
        zero_kl_divergence: sum of KL(clean ‖ zero ablated) in nats.
        agreeing: predictions whose likeliest token is unchanged.
        by_position: sums by position of the token that predicts.
        by_loss: sums by the clean model's loss, between `sae.evaluation.breakdown.LOSS_EDGES`.
        worst: the predictions that changed most.
    """

    losses: SequenceLosses
    kl_divergence: float
    kl_histogram: np.ndarray
    zero_kl_divergence: float
    agreeing: int
    by_position: BreakdownSums
    by_loss: BreakdownSums
    worst: WorstPredictions

    def figures(self, seed: int) -> DownstreamFigures:
        """The figures of all sequences; `seed` draws the bootstrap samples."""
        losses = self.losses
        predictions = int(losses.predictions.sum())
        entropies = {name: float(getattr(losses, name).sum()) / predictions for name in Passes.model_fields}
        zero, zero_interval = loss_recovered(losses.clean, losses.spliced, losses.zero_ablated, seed)
        mean, mean_interval = loss_recovered(losses.clean, losses.spliced, losses.mean_ablated, seed)
        not_defined = {
            f"loss_recovered_{name}": no_cost(name, entropies[f"{name}_ablated"] - entropies["clean"])
            for name, recovered in (("zero", zero), ("mean", mean))
            if recovered is None
        }
        return DownstreamFigures(
            num_sequences=len(losses.sequence_ids),
            num_predictions=predictions,
            cross_entropy=Passes(**entropies),
            perplexity=Passes(**{name: math.exp(min(value, 700.0)) for name, value in entropies.items()}),
            loss_recovered_zero=zero,
            loss_recovered_zero_interval=zero_interval,
            loss_recovered_mean=mean,
            loss_recovered_mean_interval=mean_interval,
            kl_divergence=KLDivergence(
                mean=self.kl_divergence / predictions,
                quantiles=_kl_quantiles(self.kl_histogram),
                zero_ablated=self.zero_kl_divergence / predictions,
                score=ratio(self.zero_kl_divergence - self.kl_divergence, self.zero_kl_divergence),
            ),
            top1_agreement=self.agreeing / predictions,
            worst_percent=self.worst.limited(worst_count(predictions)).figures(self.kl_divergence),
            not_defined=not_defined,
        )


def loss_recovered(clean: np.ndarray, spliced: np.ndarray, ablated: np.ndarray, seed: int) -> tuple[float | None, Interval | None]:
    """Loss recovered, `(CE_ablated − CE_spliced) / (CE_ablated − CE_clean)`, and its 95 % interval.

    The interval is the percentile bootstrap: sequences are drawn with replacement 1,000 times. It is None where there is a single sequence to
    draw from. Both are None where there is nothing to recover: ablation does not raise the loss, or the 95 % bootstrap interval of the rise
    holds 0. A quotient by such a rise would have any size and sign, and praise a dictionary that makes the model worse.

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
    if np.quantile(samples[:, 1], 0.025) <= 0:
        return None, None
    defined = samples[samples[:, 1] > 0]
    low, high = np.quantile(defined[:, 0] / defined[:, 1], [0.025, 0.975])
    return recovered, (float(low), float(high))


def no_cost(ablation: str, cost: float) -> str:
    """The reason why loss recovered is not defined, where the ablation costs `cost` nats per prediction."""
    return f"{ablation} ablation costs {cost:.3g} nats per prediction here, which is not above 0 beyond its noise: there is no loss to recover"


def kl_histogram(divergences: np.ndarray) -> np.ndarray:
    """Int64 counts of KL divergences between `KL_LOG10_EDGES`; the outermost bins take what lies beyond."""
    logs = np.log10(divergences.clip(1e-300)).clip(KL_LOG10_EDGES[0], KL_LOG10_EDGES[-1])
    return np.histogram(logs, KL_LOG10_EDGES)[0]


def _kl_quantiles(histogram: np.ndarray) -> dict[str, float]:
    cumulative = histogram.cumsum()
    bins = {quantile: int(np.searchsorted(cumulative, quantile * cumulative[-1])) for quantile in KL_QUANTILES}
    middles = 10 ** ((KL_LOG10_EDGES[1:] + KL_LOG10_EDGES[:-1]) / 2)
    return {f"p{100 * quantile:g}": float(middles[index]) if index else 0.0 for quantile, index in bins.items()}
