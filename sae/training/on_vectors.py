"""Training on vectors that are at hand, without store, plan or cluster.

It takes the same steps as a run over a store does (`sae.training.dictionary_run`), but keeps no state: interrupted, it begins anew. What takes hours,
or should resume to the bit, belongs into a store (`sae.write_store`) and `sae.training.engine`.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sae.architectures.base import Dictionary
from sae.architectures.config import SAEConfig
from sae.architectures.registry import build_dictionary
from sae.devices import device as own_device
from sae.errors import ConfigError, InputError, WidthError
from sae.training.config import DictionaryConfig, TrainingConfig
from sae.training.dictionary_run import DictionaryRun, Schedule
from sae.training.inputs import STATISTICS_VECTORS, FirstVectors, first_nonfinite_row
from sae.training.resampling import InputSource

Vectors = Float[Tensor, "vectors d_in"] | Float[np.ndarray, "vectors d_in"]
Row = dict[str, Any]


def train(  # noqa: PLR0913 - six of them are named options with usual values
    vectors: Vectors | Iterable[Float[Tensor, "batch d_in"]],
    config: SAEConfig | DictionaryConfig,
    *,
    num_vectors: int | None = None,
    epochs: int = 1,
    batch_size: int = 2048,
    seed: int = 0,
    device: str | None = None,
    record: Callable[[Row], None] = lambda row: None,
) -> Dictionary:
    """Train a dictionary on vectors.

    Args:
        vectors: a tensor or an array `[vectors, d_in]`, of which a memory-mapped file is never held whole, in an order that is drawn anew each
            epoch; or an iterable of tensors `[batch, d_in]` of any lengths, which is taken as it comes, once, and should be shuffled.
        config: the architecture, such as `sae.TopK(d_sae=4096, k=20)`; or a `DictionaryConfig`, which says how it is optimised as well.
        num_vectors: to train on, needed where an iterable does not say how many there are: the learning rate falls towards the end.
        epochs: passes over an array.
        batch_size: vectors a step.
        seed: of the order of an array.
        device: `cpu` or `cuda`; None: a GPU if there is one.
        record: called with each log row (loss terms, FVU, L0, dead features) and each event.

    Returns:
        The dictionary, in raw units and ready to encode.

    Raises:
        InputError: there is less than one batch; a vector is NaN or infinite; all are zero.
        ConfigError: an iterable without `num_vectors`, or with `epochs`, `resampling` or a searched L0, which need to read vectors again.
        WidthError: the vectors are not of shape `[batch, d_in]`, or of different widths.
        DivergenceError: a loss became NaN or infinite, or the reconstruction ended far worse than none.

    Example:
        >>> import torch, sae
        >>> vectors = torch.randn(20_000, 16, generator=torch.Generator().manual_seed(0))
        >>> sae.train(vectors, sae.TopK(d_sae=32, k=4), batch_size=500)
        TopKDictionary(d_in=16, d_sae=32, k=4)
    """
    wanted = config if isinstance(config, DictionaryConfig) else DictionaryConfig(name="dictionary", sae=config)
    if wanted.target_hookpoint is not None or wanted.target_l0 is not None:
        raise ConfigError("target_hookpoint and target_l0 need a store: write one with sae.write_store, or leave them out")
    source = _source(vectors, wanted, num_vectors, epochs, batch_size, seed)
    where = device or own_device()
    first = FirstVectors(source.first(-(-STATISTICS_VECTORS // batch_size))[:STATISTICS_VECTORS].to(where), "the vectors")
    dictionary = build_dictionary(wanted.sae, first.mean.shape[0])
    dictionary.encode_dtype = getattr(torch, wanted.encode_dtype)
    dictionary.input_scale.fill_(first.scale)
    dictionary.initialize(first.median.cpu() * first.scale, torch.Generator().manual_seed(wanted.seed))
    defaults = TrainingConfig()
    schedule = Schedule(source.num_batches, batch_size, defaults.log_every, defaults.dead_window_vectors)
    inputs = InputSource(lambda number: (source.batch(number).to(where), None), batch_size)
    run = DictionaryRun(wanted, dictionary.to(where), schedule, inputs, first.mean, lambda name, row: record(row))
    for batch in source.batches():
        run.train_on(batch.to(where))
    dictionary.load_state_dict(run.final_weights())
    if wanted.ema_decay is not None:
        dictionary.after_step()
    return dictionary.eval()


class _Source(Protocol):
    """Batches of vectors; `num_batches` of them, each float32 `[batch_size, d_in]`."""

    num_batches: int

    def first(self, count: int) -> Float[Tensor, "vectors d_in"]:
        """The vectors of the first batches."""

    def batch(self, number: int) -> Float[Tensor, "batch d_in"]:
        """One batch."""

    def batches(self) -> Iterator[Float[Tensor, "batch d_in"]]:
        """All of them, once."""


def _source(vectors: Any, config: DictionaryConfig, num_vectors: int | None, epochs: int, batch_size: int, seed: int) -> _Source:
    if isinstance(vectors, Tensor | np.ndarray):
        return _Array(vectors, num_vectors, epochs, batch_size, seed)
    if epochs != 1 or config.resampling is not None:
        asked = "epochs" if epochs != 1 else "resampling"
        raise ConfigError(f"{asked} reads vectors again, and an iterable gives them once: give an array, or write a store with sae.write_store")
    if num_vectors is None:
        if not isinstance(vectors, list | tuple):
            raise ConfigError("an iterable does not say how many vectors it has: give num_vectors")
        num_vectors = sum(map(len, vectors))
    return _Stream(vectors, num_vectors, batch_size)


def _num_batches(vectors: int, batch_size: int) -> int:
    if vectors < batch_size:
        raise InputError(f"{vectors:,} vectors are less than one batch of {batch_size:,}: lower batch_size, or give more")
    return vectors // batch_size


def _checked(batch: Any, number: int) -> Float[Tensor, "batch d_in"]:
    found = torch.as_tensor(batch).detach().float()
    if found.ndim != 2:
        raise WidthError(f"vectors of shape {list(found.shape)} were given, and [batch, d_in] is expected: flatten all but the last axis")
    if (row := first_nonfinite_row(found)) is not None:
        raise InputError(f"batch {number}: vector {row} holds NaN or infinity. Leave it out, or give the vectors in a wider dtype")
    return found


class _Array:
    """Rows of an array in an order that is drawn anew each epoch."""

    def __init__(self, vectors: Vectors, num_vectors: int | None, epochs: int, batch_size: int, seed: int) -> None:
        if vectors.ndim != 2:
            raise WidthError(f"an array of shape {list(vectors.shape)} was given, and [vectors, d_in] is expected: flatten all but the last axis")
        self._vectors, self._size, self._seed = vectors, batch_size, seed
        self._rows = min(len(vectors), num_vectors or len(vectors))
        self._in_epoch = _num_batches(self._rows, batch_size)
        self.num_batches = epochs * self._in_epoch
        self._order: tuple[int, Tensor] = -1, torch.empty(0)

    def first(self, count: int) -> Float[Tensor, "vectors d_in"]:
        return torch.cat([self.batch(number) for number in range(min(count, self.num_batches))])

    def batch(self, number: int) -> Float[Tensor, "batch d_in"]:
        epoch, place = divmod(number, self._in_epoch)
        if self._order[0] != epoch:
            self._order = epoch, torch.randperm(self._rows, generator=torch.Generator().manual_seed(self._seed * 1_000_003 + epoch))
        rows = self._order[1][place * self._size : (place + 1) * self._size]
        if isinstance(self._vectors, Tensor):
            return _checked(self._vectors[rows.to(self._vectors.device)], number)
        ascending, back = rows.sort()  # a file is read forwards
        return _checked(np.asarray(self._vectors[ascending.numpy()]), number)[back.argsort()]

    def batches(self) -> Iterator[Float[Tensor, "batch d_in"]]:
        return map(self.batch, range(self.num_batches))


class _Stream:
    """Batches of one size from an iterable of tensors of any lengths."""

    def __init__(self, vectors: Iterable[Tensor], num_vectors: int, batch_size: int) -> None:
        self._size = batch_size
        self.num_batches = _num_batches(num_vectors, batch_size)
        self._cut = self._batches(iter(vectors))
        self._read_before: list[Tensor] = []

    def first(self, count: int) -> Float[Tensor, "vectors d_in"]:
        self._read_before = list(itertools.islice(self._cut, min(count, self.num_batches)))
        return torch.cat(self._read_before)

    def batch(self, number: int) -> Float[Tensor, "batch d_in"]:
        raise NotImplementedError(f"batch {number} of an iterable is gone")  # only resampling asks, which is refused

    def batches(self) -> Iterator[Float[Tensor, "batch d_in"]]:
        return itertools.islice(itertools.chain(self._read_before, self._cut), self.num_batches)

    def _batches(self, parts: Iterator[Tensor]) -> Iterator[Float[Tensor, "batch d_in"]]:
        held: list[Tensor] = []
        for number in range(self.num_batches):
            while sum(map(len, held)) < self._size:
                part = next(parts, None)
                if part is None:
                    found = number * self._size + sum(map(len, held))
                    raise InputError(f"the iterable ended after {found:,} vectors, and num_vectors promised more: give num_vectors={found}")
                held.append(_checked(part, number))
                if held[-1].shape[1] != held[0].shape[1]:
                    raise WidthError(f"vectors of widths {held[0].shape[1]} and {held[-1].shape[1]} were given: all must have one width")
            whole = torch.cat(held)
            held = [whole[self._size :]]
            yield whole[: self._size]
