"""Where the predictions are lost: by position in the sequence, by how well the model knew the token, and the worst 1 % one by one."""

import sys
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import pyarrow as pa
from pydantic import Field

from sae.config import Config
from sae.evaluation.accumulators import Sums
from sae.shares import ratio

LOSS_EDGES = (0.0, 0.1, 0.3, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0, float("inf"))
WORST_SHARE = 0.01
CONTEXT_TOKENS = 16


class WorstFigures(Config):
    """The 1 % of predictions whose distribution the reconstruction changes most, by KL(clean ‖ spliced)."""

    num_predictions: int
    kl_threshold: float = Field(description="the smallest KL divergence among them, in nats")
    kl_mean: float = Field(description="their mean KL divergence, in nats")
    share_of_kl: float | None = Field(description="their part of the KL divergence of all predictions; 0.01 where the damage is even, 1 at most")
    loss_increase: float = Field(description="mean of CE_spliced − CE_clean over them, in nats")


@dataclass(frozen=True)
class Predictions:
    """Predictions of one pass and of those beside it, one entry each.

    Attributes:
        sequence_ids: int64, the held-out sequence.
        positions: int64, of the token that predicts, within its sequence.
        token_ids: int64, that token.
        next_token_ids: int64, the token to be predicted.
        clean: float64, cross-entropy in nats of the untouched model.
        spliced: with the reconstruction in place of the activation.
        zero_ablated: with zeros in its place.
        mean_ablated: with the store's mean activation in its place.
        kl_divergence: float64, KL(clean ‖ spliced) in nats.
        agrees: bool, whether the likeliest token is unchanged.
    """

    sequence_ids: np.ndarray
    positions: np.ndarray
    token_ids: np.ndarray
    next_token_ids: np.ndarray
    clean: np.ndarray
    spliced: np.ndarray
    zero_ablated: np.ndarray
    mean_ablated: np.ndarray
    kl_divergence: np.ndarray
    agrees: np.ndarray


SUMMED = ("clean", "spliced", "zero_ablated", "mean_ablated", "kl_divergence", "agrees")


@dataclass
class BreakdownSums(Sums):
    """Sums of predictions that fall into the same cell: a position, or a range of the clean model's loss.

    Attributes:
        predictions: int64 `[cells]`.
        sums: float64 `[cells, 6]`, of the columns `SUMMED`.
    """

    predictions: np.ndarray
    sums: np.ndarray

    def columns(self) -> dict[str, pa.Array]:
        """Means of every cell, as `sae.evaluation.report` names them; null where it is empty, or where ablation changes nothing in it."""
        empty = self.predictions == 0
        means = self.sums / np.maximum(self.predictions, 1)[:, None]
        columns = {"predictions": pa.array(self.predictions.astype(np.uint64))}
        for index, name in enumerate(SUMMED):
            columns["top1_agreement" if name == "agrees" else name] = pa.array(means[:, index], mask=empty)
        clean, spliced, zero = means[:, 0], means[:, 1], means[:, 2]
        columns["loss_recovered_zero"] = pa.array([ratio(*each) for each in zip(zero - spliced, zero - clean, strict=True)], pa.float64())
        return columns


def breakdown(predictions: Predictions, cells: np.ndarray, num_cells: int) -> BreakdownSums:
    """The sums of predictions by cell; `cells` says in which of `num_cells` each falls."""
    sums = [np.bincount(cells, getattr(predictions, name).astype(np.float64), num_cells) for name in SUMMED]
    return BreakdownSums(np.bincount(cells, minlength=num_cells), np.stack(sums, axis=1))


def loss_cells(clean: np.ndarray) -> np.ndarray:
    """Find the range of `LOSS_EDGES` that each cross-entropy of the clean model falls into; a range holds its lower edge."""
    return np.searchsorted(LOSS_EDGES[1:-1], clean, side="right")


@dataclass
class WorstPredictions(Sums):
    """The predictions with the largest KL divergence seen so far, largest first; equal ones in the order of the text.

    Attributes:
        kept: how many at most. As many as are 1 % of the whole evaluation: then no part drops one that belongs to it.
        sequence_ids: int64; the further columns are those of `Predictions`.
    """

    kept: int
    sequence_ids: np.ndarray
    positions: np.ndarray
    token_ids: np.ndarray
    next_token_ids: np.ndarray
    clean: np.ndarray
    spliced: np.ndarray
    kl_divergence: np.ndarray

    def merge(self, other: Self) -> Self:
        """The worst of both parts."""
        columns = {name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in _worst_columns()}
        order = np.lexsort((columns["positions"], columns["sequence_ids"], -columns["kl_divergence"]))[: self.kept]
        return type(self)(self.kept, **{name: values[order] for name, values in columns.items()})

    def limited(self, kept: int) -> Self:
        """The worst of these, so many at most, and of whatever is merged with them."""
        return type(self)(kept, **{name: getattr(self, name)[:kept] for name in _worst_columns()})

    def figures(self, kl_divergence: float) -> WorstFigures:
        """Figures of those kept; `kl_divergence` is the sum over all predictions."""
        return WorstFigures(
            num_predictions=len(self.kl_divergence),
            kl_threshold=float(self.kl_divergence[-1]),
            kl_mean=float(self.kl_divergence.mean()),
            share_of_kl=None if (share := ratio(float(self.kl_divergence.sum()), kl_divergence)) is None else min(share, 1.0),
            loss_increase=float((self.spliced - self.clean).mean()),
        )


def worst_count(num_predictions: int) -> int:
    """Count the predictions that are 1 % of so many."""
    return max(1, -(-num_predictions // round(1 / WORST_SHARE)))


def worst_predictions(predictions: Predictions) -> WorstPredictions:
    """All predictions of one batch, the worst first."""
    columns = {name: getattr(predictions, name) for name in _worst_columns()}
    empty = {name: values[:0] for name, values in columns.items()}
    return WorstPredictions(sys.maxsize, **empty).merge(WorstPredictions(sys.maxsize, **columns))


def _worst_columns() -> list[str]:
    return [field.name for field in fields(WorstPredictions) if field.name != "kept"]
