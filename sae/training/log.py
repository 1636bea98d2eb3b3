"""Log of a training run: sums over a window, the row of `training.jsonl` they become, features that have stopped firing, and signs of divergence.

Dead features are counted in vectors, so that the count means the same at any batch size. A run has diverged when a loss or weight is NaN or
infinite, or when the reconstruction stays far worse than none.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.errors import DivergenceError

DENSITY_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
LOG10_DENSITY_FIRST, LOG10_DENSITY_STEP = -7.0, 0.25


@dataclass
class LogWindow:
    """Sums since the last log row; saved with the training state, so that a resumed run logs the same rows.

    Attributes:
        firings: how often each feature fired.
        vectors: vectors seen.
        sums: steps, loss terms (`loss/<term>`), squared error, squared deviation from the mean, non-zero features, seconds of each kind.
    """

    firings: Int[Tensor, " d_sae"]
    vectors: int = 0
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, vectors: int, firings: Int[Tensor, " d_sae"], amounts: dict[str, float]) -> None:
        """Add the sums of one step."""
        self.vectors += vectors
        self.firings += firings
        for name, amount in amounts.items():
            self.sums[name] = self.sums.get(name, 0.0) + amount

    def clear(self) -> None:
        """Begin the next window."""
        self.firings.zero_()
        self.vectors, self.sums = 0, {}

    def row(self, firings: Int[Tensor, " all_features"]) -> dict[str, Any]:
        """The window's means: loss terms per step, L0, FVU (both sums over the window), the features' densities, and where a step's time went.

        A step takes `step_seconds`, of which `sync_seconds` are exchanges with other workers, after `read_seconds` of waiting for its batch,
        which all dictionaries of a pass share.

        Args:
            firings: of all features, wherever they are held.
        """
        steps = self.sums["steps"]
        density = firings.double() / self.vectors
        quantiles = torch.quantile(density, torch.tensor(DENSITY_QUANTILES, dtype=torch.float64, device=density.device))
        deviation = self.sums["squared_deviation"]
        return {
            "losses": {name.removeprefix("loss/"): total / steps for name, total in self.sums.items() if name.startswith("loss/")},
            "fvu": self.sums["squared_error"] / deviation if deviation > 0 else None,
            "l0": self.sums["nonzero"] / self.vectors,
            "density_quantiles": dict(zip(map(str, DENSITY_QUANTILES), quantiles.tolist(), strict=True)),
            "density_histogram": density_histogram(density),
            "step_seconds": self.sums["seconds"] / steps,
            "read_seconds": self.sums["read_seconds"] / steps,
            "sync_seconds": self.sums["sync_seconds"] / steps,
            "window_vectors": self.vectors,
        }


def density_histogram(density: Float[Tensor, " d_sae"]) -> dict[str, Any]:
    """Count the features of each density, in even bins of its logarithm to base 10 that end at 1; those of density 0 are counted apart.

    Densities below the first bin are counted in it.
    """
    bins = round(-LOG10_DENSITY_FIRST / LOG10_DENSITY_STEP)
    firing = density[density > 0]
    places = ((firing.log10() - LOG10_DENSITY_FIRST) / LOG10_DENSITY_STEP).long().clamp(0, bins - 1)
    counts = torch.bincount(places, minlength=bins)
    return {
        "log10_first": LOG10_DENSITY_FIRST,
        "log10_step": LOG10_DENSITY_STEP,
        "counts": counts.tolist(),
        "silent": len(density) - len(firing),
    }


FACTOR = 10.0
WINDOWS = 5


def diverging(rows: list[dict[str, Any]], first_fvu: float) -> bool:
    """Say whether the last five log windows each have an FVU of more than ten times the first step's, and more than ten.

    An FVU of 1 is what the mean alone explains. A healthy run starts near it and falls; resampling makes it leap for a few steps, a warm-up
    of the sparsity term lets it rise towards 1. Only weights that run away keep it above ten for five windows.

    Args:
        rows: the log so far.
        first_fvu: FVU of the first step, before any weight was changed.
    """
    last = [row["fvu"] for row in rows[-WINDOWS:]]
    return len(last) == WINDOWS and all(fvu is not None and fvu > FACTOR * max(1.0, first_fvu) for fvu in last)


def ended_diverged(rows: list[dict[str, Any]], first_fvu: float) -> bool:
    """Say whether the last log row, at the end of training, has an FVU of more than ten times the first step's, and more than ten.

    A short run, or one that logs seldom, has fewer rows than `diverging` looks at. At the end nothing can recover any more, so one row decides.

    Args:
        rows: the whole log.
        first_fvu: FVU of the first step, before any weight was changed.
    """
    fvu = rows[-1]["fvu"] if rows else None
    return fvu is not None and fvu > FACTOR * max(1.0, first_fvu)


def check_losses(name: str, step: int, losses: dict[str, float]) -> None:
    """Let no loss pass that is no number.

    Raises:
        DivergenceError: a term is NaN or infinite.
    """
    for term, loss in sorted(losses.items(), key=lambda item: item[0] == "total"):  # the total names no cause, so it comes last
        if not math.isfinite(loss):
            raise divergence(name, step, f"{term} is {loss}")


def divergence(name: str, step: int, what: str) -> DivergenceError:
    """Describe how a run diverged."""
    return DivergenceError(
        f"dictionary {name!r} diverged at step {step}: {what}. The last checkpoint is as it was; "
        "lower optimizer.learning_rate or set optimizer.max_gradient_norm, and train into another output"
    )


class DeadFeatureTracker:
    """Counts, for each feature, the vectors seen since it last fired.

    Attributes:
        silent_vectors: vectors seen since the last batch in which the feature fired; the whole state, to be saved with a checkpoint.

    Example:
        >>> tracker = DeadFeatureTracker(d_sae=2)
        >>> tracker.update(torch.tensor([True, False]), num_vectors=100)
        >>> tracker.dead(window_vectors=100).tolist()
        [False, True]
    """

    silent_vectors: Int[Tensor, " d_sae"]

    def __init__(self, d_sae: int, device: str | torch.device = "cpu") -> None:
        self.silent_vectors = torch.zeros(d_sae, dtype=torch.int64, device=device)

    def update(self, active: Bool[Tensor, " d_sae"], num_vectors: int) -> None:
        """Note which features fired at all in a batch of `num_vectors`."""
        self.silent_vectors += num_vectors
        self.silent_vectors[active] = 0

    def dead(self, window_vectors: int) -> Bool[Tensor, " d_sae"]:
        """Features silent for at least `window_vectors`; none are before that many vectors have been seen."""
        return self.silent_vectors >= window_vectors

    def revive(self, feature_ids: Int[Tensor, " features"]) -> None:
        """Begin to count anew for features that were given new weights."""
        self.silent_vectors[feature_ids] = 0
