"""Input of a training pass: the same checked global batches at every hookpoint it needs, and the statistics that training starts from.

Statistics come from the first batches of the order, not from the store's manifest: a run that trains while the harvest still writes starts from
the same numbers as one that waits for it.
"""

import contextlib
import math
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from sae.batches.loader import Batches
from sae.errors import InputError
from sae.parallel.workers import Workers

STATISTICS_VECTORS = 16_384
PREFETCHED_BATCHES = 4


@dataclass(frozen=True)
class Batch:
    """One step's rows of this process at each hookpoint; `read_seconds` is how long the step waited for them."""

    number: int
    vectors: dict[str, Float[Tensor, "batch d_in"]]
    read_seconds: float


class FirstVectors:
    """Statistics of the first vectors of a run at one hookpoint.

    Args:
        vectors: the sample.
        hookpoint: for messages.
    """

    def __init__(self, vectors: Float[Tensor, "vectors d_in"], hookpoint: str) -> None:
        self._vectors, self._hookpoint = vectors, hookpoint

    @cached_property
    def scale(self) -> float:
        """√d_in / mean ‖x‖: with it, scaled activations have a mean norm of √d_in.

        Raises:
            InputError: every vector is zero.
        """
        mean_norm = torch.linalg.vector_norm(self._vectors, dim=1).double().mean().item()
        if not mean_norm > 0:
            raise InputError(f"the first {len(self._vectors):,} activations at {self._hookpoint} are all zero: harvest another hookpoint")
        return math.sqrt(self._vectors.shape[1]) / mean_norm

    @cached_property
    def mean(self) -> Float[Tensor, " d_in"]:
        """The mean activation, against which variance is counted in the log."""
        return self._vectors.double().mean(0).to(self._vectors.dtype)

    @cached_property
    def median(self) -> Float[Tensor, " d_in"]:
        """The geometric median, where a dictionary's b_dec starts."""
        return geometric_median(self._vectors)


class TrainingInputs:
    """The batches of a pass at every hookpoint that its dictionaries read.

    Args:
        batches: the global batches by hookpoint, first the one that is encoded; row i of batch n is the same token in all of them.
        num_steps: batches of the run.
        workers: who shares each batch, and on which device.

    Attributes:
        hookpoint: the one that is encoded.
        seconds: wall time that training has waited for vectors so far.
    """

    def __init__(self, batches: dict[str, Batches], num_steps: int, workers: Workers) -> None:
        self.batches, self.num_steps, self.workers = batches, num_steps, workers
        self.hookpoint = next(iter(batches))
        self.seconds = 0.0
        self._first: dict[str, FirstVectors] = {}

    def read(self, hookpoint: str, number: int) -> Float[Tensor, "batch d_in"]:
        """The whole of global batch `number`, whoever else there is."""
        began = time.perf_counter()
        vectors = self.batches[hookpoint].batch(number).to(self.workers.device).float()
        self.seconds += time.perf_counter() - began
        return vectors

    def first(self, hookpoint: str) -> FirstVectors:
        """Statistics of the first 16,384 vectors of the run, or of all where it has fewer; the same on every worker.

        Raises:
            InputError: an activation among them is NaN or infinite.
        """
        if hookpoint not in self._first:
            whole = self.batches[hookpoint]
            numbers = range(min(-(-STATISTICS_VECTORS // whole.batch_size), self.num_steps))
            read = []
            for number in numbers:
                read.append(self.read(hookpoint, number))
                bad = first_nonfinite_row(read[-1])
                if bad is not None:
                    raise nonfinite_activation(whole, number, bad)
            self._first[hookpoint] = FirstVectors(torch.cat(read)[:STATISTICS_VECTORS], hookpoint)
        return self._first[hookpoint]

    @contextlib.contextmanager
    def ahead(self, start: int) -> Iterator[Iterable[Batch]]:
        """This process's rows of the batches from `start` on, read ahead by threads that end with the context.

        Raises:
            InputError: an activation is NaN or infinite; on every worker the same, whichever of them holds it.
        """
        workers = self.workers
        shares = {hookpoint: whole.share(workers.data_rank, workers.data_size) for hookpoint, whole in self.batches.items()}
        with contextlib.ExitStack() as stack:  # an error in the loop must not leave a reading thread behind
            readers = {}
            for hookpoint, share in shares.items():
                reader = share.iterate(start, self.num_steps, PREFETCHED_BATCHES)
                readers[hookpoint] = stack.enter_context(contextlib.closing(cast(Generator[tuple[int, Tensor], None, None], reader)))
            yield self._checked(readers, shares)

    def _checked(self, readers: dict[str, Generator[tuple[int, Tensor], None, None]], shares: dict[str, Batches]) -> Iterator[Batch]:
        while True:
            began = time.perf_counter()
            read = {hookpoint: next(reader, None) for hookpoint, reader in readers.items()}
            found = {hookpoint: numbered for hookpoint, numbered in read.items() if numbered is not None}
            if len(found) < len(readers):
                return
            number = next(iter(found.values()))[0]
            vectors = {hookpoint: x.to(self.workers.device).float() for hookpoint, (_, x) in found.items()}
            waited = time.perf_counter() - began
            self.seconds += waited
            for hookpoint, x in vectors.items():
                self._refuse_nonfinite(x, number, shares[hookpoint])
            yield Batch(number, vectors, waited)

    def _refuse_nonfinite(self, x: Float[Tensor, "batch d_in"], number: int, share: Batches) -> None:
        bad = first_nonfinite_row(x)
        if self.workers.alone:
            if bad is not None:
                raise nonfinite_activation(share, number, bad)
            return
        # Every rank must stop at the same step, or those without a bad row would wait for the others for ever.
        rows = self.workers.gather_rows(torch.tensor([-1 if bad is None else share.span[0] + bad], device=x.device))
        wrong = rows[rows >= 0]
        if len(wrong):
            raise nonfinite_activation(share, number, int(wrong.min()) - share.span[0])


def first_nonfinite_row(x: Float[Tensor, "batch d_in"]) -> int | None:
    """The first row that holds NaN or infinity, or None: one sum over the batch, and a closer look only where that is not finite."""
    if bool(torch.isfinite(x.sum())):
        return None
    bad = ~torch.isfinite(x).all(dim=1)
    return int(bad.nonzero()[0]) if bool(bad.any()) else None


def nonfinite_activation(batches: Batches, number: int, row: int) -> InputError:
    """Describe NaN or infinity in a row, counted from the first one that `batches` returns."""
    shard, row_in_shard = batches.origin(number, batches.span[0] + row)
    return InputError(
        f"batch {number}: shard {shard} of {batches.hookpoint} holds NaN or infinity in row {row_in_shard}. The last training state is as it was; "
        "harvest again in a dtype that holds such values (bfloat16, float32), or leave that text out"
    )


@torch.no_grad()
def geometric_median(vectors: Float[Tensor, "batch d_in"], tolerance: float = 1e-6, max_iterations: int = 500) -> Float[Tensor, " d_in"]:
    """The geometric median of `vectors`, where the pre-encoder bias of an autoencoder starts.

    m = argmin_m Σ_x ‖x − m‖₂, found by Weiszfeld's iteration m ← Σ_x x/‖x − m‖ / Σ_x 1/‖x − m‖ in float64 from the mean. It stops
    when a step moves m by less than `tolerance` times the mean distance of the vectors to m. A distance counts as at least 1e-9 of
    the mean distance, so that the iteration may pass through, or end in, one of the vectors.

    Reference: Weiszfeld 1937; Bricken et al. 2023, "Towards Monosemanticity", appendix "Advice for Training Sparse Autoencoders".

    Args:
        vectors: the sample, at least one vector.
        tolerance: the largest last step, relative to the mean distance.
        max_iterations: where to stop in any case; Weiszfeld's iteration never increases the total distance, so the last point is the best.

    Returns:
        The median in the dtype of `vectors`.
    """
    points = vectors.double()
    median = points.mean(dim=0)
    for _ in range(max_iterations):
        distances = torch.linalg.vector_norm(points - median, dim=1)
        mean_distance = distances.mean()
        if mean_distance == 0:
            break
        weights = 1 / distances.clamp(min=1e-9 * mean_distance.item())
        moved = (weights @ points) / weights.sum()
        step = torch.linalg.vector_norm(moved - median)
        median = moved
        if step <= tolerance * mean_distance:
            break
    return median.to(vectors.dtype)
