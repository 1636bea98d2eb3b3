"""The sums of one log window and the row of `training.jsonl` they become."""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

DENSITY_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
LOG10_DENSITY_FIRST, LOG10_DENSITY_STEP = -7.0, 0.25


@dataclass
class LogWindow:
    """What was measured since the last log row; saved with the training state, so that a resumed run logs the same rows.

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
    """How many features have which density, in even bins of its logarithm to base 10 that end at 1; those of density 0 are counted apart.

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
