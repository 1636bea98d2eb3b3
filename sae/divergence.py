"""When a training run is beyond hope: a loss or weight that is no number, or a reconstruction that stays far worse than none."""

import math
from typing import Any

from sae.errors import DivergenceError

FACTOR = 10.0
WINDOWS = 3


def diverging(rows: list[dict[str, Any]]) -> bool:
    """Whether the last three log windows each have an FVU more than ten times that of the first window, and more than ten.

    An FVU of 1 is what the mean alone explains. A healthy run starts near it and falls; resampling makes it leap for a few steps, a warm-up
    of the sparsity term lets it rise towards 1. Only weights that run away keep it above ten for three windows.
    """
    last = [row["fvu"] for row in rows[-WINDOWS:]]
    if len(rows) <= WINDOWS or any(fvu is None for fvu in (*last, rows[0]["fvu"])):
        return False
    return min(last) > FACTOR * max(1.0, rows[0]["fvu"])


def check_losses(name: str, step: int, losses: dict[str, float]) -> None:
    """Let no loss pass that is no number.

    Raises:
        DivergenceError: a term is NaN or infinite.
    """
    for term, loss in sorted(losses.items(), key=lambda item: item[0] == "total"):  # the total names no cause, so it comes last
        if not math.isfinite(loss):
            raise divergence(name, step, f"{term} is {loss}")


def divergence(name: str, step: int, what: str) -> DivergenceError:
    """What to say of a run that diverged."""
    return DivergenceError(
        f"dictionary {name!r} diverged at step {step}: {what}. The last checkpoint is as it was; "
        "lower optimizer.learning_rate or set optimizer.max_gradient_norm, and train into another output"
    )
