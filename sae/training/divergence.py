"""When a training run is beyond hope: a loss or weight that is no number, or a reconstruction that stays far worse than none."""

import math
from typing import Any

from sae.errors import DivergenceError

FACTOR = 10.0
WINDOWS = 5


def diverging(rows: list[dict[str, Any]], first_fvu: float) -> bool:
    """Whether the last five log windows each have an FVU of more than ten times the first step's, and more than ten.

    An FVU of 1 is what the mean alone explains. A healthy run starts near it and falls; resampling makes it leap for a few steps, a warm-up
    of the sparsity term lets it rise towards 1. Only weights that run away keep it above ten for five windows.

    Args:
        rows: the log so far.
        first_fvu: FVU of the first step, before any weight was changed.
    """
    last = [row["fvu"] for row in rows[-WINDOWS:]]
    return len(last) == WINDOWS and all(fvu is not None and fvu > FACTOR * max(1.0, first_fvu) for fvu in last)


def ended_diverged(rows: list[dict[str, Any]], first_fvu: float) -> bool:
    """Whether the last log row, at the end of training, has an FVU of more than ten times the first step's, and more than ten.

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
    """What to say of a run that diverged."""
    return DivergenceError(
        f"dictionary {name!r} diverged at step {step}: {what}. The last checkpoint is as it was; "
        "lower optimizer.learning_rate or set optimizer.max_gradient_norm, and train into another output"
    )
