"""The sparsity coefficient that gives a wanted L0, searched by short pilot runs on the first part of the data.

Each round trains several pilots side by side from one reader, each with its own coefficient. Between measured points log L0 is taken as linear
in log coefficient; the next round stands closer around the crossing, until a pilot's L0 is within the tolerance. Nothing is random, and every
finished pilot stays until the search is over: an interrupted search goes on where it was and finds the same.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

from sae.errors import ConfigError
from sae.parallel.workers import Workers
from sae.records import get_record, put_record
from sae.storage import Place
from sae.training.config import DictionaryConfig, TargetL0Config
from sae.training.plan import compare_plans
from sae.training.records import PilotPoint, Search

SEARCH_KEY = "search.json"
SPACINGS = (4.0, 1.5, 1.15, 1.05)
SMALLEST_L0 = 1e-3
MEASURED_FRACTION = 0.2

Point = tuple[float, float]
"""`(coefficient, L0)` of a pilot run."""
Pilots = Callable[[list[DictionaryConfig], str, int], dict[str, list[dict[str, Any]]]]
"""Train dictionaries for some steps below a directory; returns their log rows by name."""


def with_coefficient(dictionary: DictionaryConfig, coefficient: float) -> DictionaryConfig:
    """The same dictionary with another sparsity coefficient."""
    return dictionary.model_copy(update={"sae": dictionary.sae.model_copy(update={str(dictionary.coefficient): coefficient})})


def search_coefficient(
    place: Place, request: dict[str, Any], dictionary: DictionaryConfig, target: TargetL0Config, num_steps: int, pilots: Pilots, workers: Workers
) -> float:
    """Find the coefficient, or read it where it was found before; what was done is written to `search.json`.

    Args:
        place: the dictionary's own directory.
        request: the plan with the coefficient that the search starts from.
        dictionary: what is to be trained.
        target: what is wanted of it.
        num_steps: of the whole run.
        pilots: trains the pilot runs.
        workers: who shares the work; the leader writes.

    Raises:
        PlanError: another search was done here.
        ConfigError: no pilot came within the tolerance.
    """
    if (found := found_coefficient(place)) is not None:
        compare_plans(found.request, request, place.url)
        return found.coefficient
    steps = max(1, round(target.pilot_fraction * num_steps))
    rounds: list[list[Point]] = []
    center, spacing = float(getattr(dictionary.sae, str(dictionary.coefficient))), SPACINGS[0]
    for number in range(target.max_rounds):
        coefficients = around(center, spacing, target.pilots)
        named = {f"{dictionary.name}-{index}": with_coefficient(dictionary, each) for index, each in enumerate(coefficients)}
        trained = pilots([pilot.model_copy(update={"name": name, "target_l0": None}) for name, pilot in named.items()], f"round-{number}", steps)
        rounds.append([(each, measured_l0(trained[name], steps)) for each, name in zip(coefficients, named, strict=True)])
        points = [point for one in rounds for point in one]
        best = min(points, key=lambda point: abs(point[1] / target.l0 - 1))
        if abs(best[1] / target.l0 - 1) <= target.tolerance:
            workers.agree(0)  # all have seen that there was none before the leader writes it
            if workers.leader:
                shown = [[PilotPoint(coefficient=each, l0=l0) for each, l0 in one] for one in rounds]
                ended = Search(coefficient=best[0], l0=best[1], wanted=target.l0, rounds=shown, request=request, pilot_steps=steps)
                put_record(place, SEARCH_KEY, ended)
            return best[0]
        center, bracketed = crossing(points, target.l0)
        spacing = SPACINGS[min(number + 1, len(SPACINGS) - 1)] if bracketed else SPACINGS[0]
    raise ConfigError(
        f"dictionary {dictionary.name!r}: no {dictionary.coefficient} gave L0 {target.l0:g} within {target.tolerance:.0%} in {target.max_rounds} "
        f"rounds of pilots; the nearest, {best[0]:.4g}, gave {best[1]:.4g}: "
        "start from it, or raise target_l0.tolerance or target_l0.pilot_fraction"
    )


def found_coefficient(place: Place) -> Search | None:
    """The search that was finished in a dictionary's directory; None where there is none.

    Raises:
        InputError: a field is missing, unknown or of a wrong type.
        CorruptObjectError: it was changed after it was written.
    """
    return get_record(place, SEARCH_KEY, Search) if place.exists(SEARCH_KEY) else None


def around(center: float, spacing: float, count: int) -> list[float]:
    """`count` coefficients, each `spacing` times the one before, with `center` as their geometric mean; in six digits, to be read and typed."""
    return [float(f"{center * spacing ** (index - (count - 1) / 2):.6g}") for index in range(count)]


def crossing(points: list[Point], l0: float) -> tuple[float, bool]:
    """Where log L0, linear in log coefficient between neighbours, crosses the wanted one; and whether it does.

    Where several neighbours enclose it, the closest pair counts. Where none do, the next place to look lies beyond the end that is nearer.
    """
    known = sorted((math.log(coefficient), math.log(max(found, SMALLEST_L0))) for coefficient, found in points)
    wanted = math.log(l0)
    pairs = [(right[0] - left[0], left, right) for left, right in itertools.pairwise(known) if (left[1] - wanted) * (right[1] - wanted) <= 0]
    if pairs:
        width, left, right = min(pairs)
        share = (wanted - left[1]) / (right[1] - left[1]) if right[1] != left[1] else 0.5
        return math.exp(left[0] + share * width), True
    beyond = math.log(SPACINGS[0]) * 2
    return math.exp(known[0][0] - beyond if known[0][1] < wanted else known[-1][0] + beyond), False


def measured_l0(rows: list[dict[str, Any]], steps: int) -> float:
    """Mean L0 over the last fifth of a run, or over its last log row if that is longer."""
    last = [row for row in rows if row["step"] > (1 - MEASURED_FRACTION) * steps]
    return float(sum(row["l0"] * row["window_vectors"] for row in last) / sum(row["window_vectors"] for row in last))
