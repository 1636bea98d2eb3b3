"""Statistics of a whole store from the sums of its shards, each total rounded once, whatever the order of the shards."""

import math
from collections.abc import Iterable, Sequence

from pydantic import Field, NonNegativeInt, PositiveInt

from sae.config import Config
from sae.errors import InputError


class RowTotals(Config):
    """Sums over the rows of one shard as stored (`sae.store.encoding.RowSums` says how they are added)."""

    rows: NonNegativeInt
    sum: list[float] = Field(description="sum of x, [d_in]")
    sum_squared_norm: float = Field(description="sum of ‖x‖²")
    sum_norm: float = Field(description="sum of ‖x‖")
    position_rows: list[NonNegativeInt] = Field(description="rows at each position of a sequence, [context_length]")
    position_sum_norm: list[float] = Field(description="sum of ‖x‖ at each position, [context_length]")


class HookpointStatistics(Config):
    """Statistics of all stored activations x of a hookpoint."""

    rows: PositiveInt
    mean: list[float] = Field(description="mean of x, [d_in]")
    mean_squared_norm: float = Field(description="mean of ‖x‖²")
    mean_norm: float = Field(description="mean of ‖x‖")
    variance: float = Field(description="mean of ‖x − mean‖², summed over the d_in elements")
    position_rows: list[NonNegativeInt] = Field(description="rows at each position of a sequence, [context_length]")
    position_mean_norm: list[float] = Field(description="mean of ‖x‖ at each position, 0 where no row is, [context_length]")


class ExactTotals:
    """Totals of columns of numbers that come block by block: each is kept as a few numbers whose sum is the total exactly."""

    def __init__(self) -> None:
        self._parts: list[list[float]] = []

    def add(self, rows: Iterable[Sequence[float]]) -> None:
        """Add rows, all as wide as the first one ever."""
        columns = list(zip(*rows, strict=True))
        self._parts = [_exactly([*parts, *column]) for parts, column in zip(self._parts or [[]] * len(columns), columns, strict=True)]

    def rounded(self) -> list[float]:
        """Each total, rounded once."""
        return [math.fsum(parts) for parts in self._parts]


def _exactly(numbers: list[float]) -> list[float]:
    """A few numbers with the same sum: what fsum rounds away is summed again, until nothing is left."""
    parts: list[float] = []
    while rest := math.fsum([*numbers, *(-part for part in parts)]):
        parts.append(rest)
    return parts


def merge_statistics(blocks: Iterable[Sequence[RowTotals]]) -> HookpointStatistics:
    """Statistics of all rows from the sums of the shards, which come in blocks, so that not all are held at once.

    Raises:
        InputError: the shards hold no row at all.
    """
    rows, position_rows = 0, list[int]()
    sums, position_norms, norms = ExactTotals(), ExactTotals(), ExactTotals()
    for block in blocks:
        rows += sum(totals.rows for totals in block)
        sums.add(totals.sum for totals in block)
        position_norms.add(totals.position_sum_norm for totals in block)
        norms.add((totals.sum_squared_norm, totals.sum_norm) for totals in block)
        counted = zip(*(totals.position_rows for totals in block), *([position_rows] if position_rows else []), strict=True)
        position_rows = [sum(column) for column in counted]
    if rows == 0:
        raise InputError("the store holds no activation, since every token is a special one: check the corpus and the tokenizer")
    mean = [total / rows for total in sums.rounded()]
    squared_norm, norm = norms.rounded()
    return HookpointStatistics(
        rows=rows,
        mean=mean,
        mean_squared_norm=squared_norm / rows,
        mean_norm=norm / rows,
        variance=max(0.0, squared_norm / rows - math.fsum(value * value for value in mean)),
        position_rows=position_rows,
        position_mean_norm=[total / max(1, count) for total, count in zip(position_norms.rounded(), position_rows, strict=True)],
    )
