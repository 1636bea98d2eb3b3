"""The Arrow form of a shard: one row per harvested token.

=============  =====================================  ==============================================
column         type                                   meaning
=============  =====================================  ==============================================
sequence_id    uint64                                 packed sequence, counted from 0 over the split
position       uint32                                 token within its sequence
token_id       uint32                                 in the subject's tokenizer
activation     fixed_size_list<d_in> of the dtype     the hookpoint's output at that token
=============  =====================================  ==============================================

Arrow has no bfloat16: such activations are stored as their bits in uint16, and the field's metadata says `dtype: bfloat16`.

Compressed shards are ordinary Arrow files whose buffers are zstd frames, which every Arrow reader undoes. The bytes of the values are not
shuffled: measured on the ReLU activations of the embedded model (`make bench ONLY=compression`), zstd takes 6.8 : 1 off float16 and 7.6 : 1 off
bfloat16 as they are, but 5.3 and 5.9 with all high bytes before all low bytes, since runs of zeros are what it finds. Its residual stream, which is
dense, gains little in any case: 1.08 and 1.27 as it is, 1.17 and 1.45 shuffled, for which no other reader would find the values.
"""

import threading
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from sae.storage import ArrowFile, ArrowFileError

Compression = Literal["none", "zstd"]
StoreDtype = Literal["float16", "float32", "bfloat16"]
TORCH_DTYPES: dict[str, torch.dtype] = {"float16": torch.float16, "float32": torch.float32, "bfloat16": torch.bfloat16}
_ARROW_TYPES = {"float16": pa.float16(), "float32": pa.float32(), "bfloat16": pa.uint16()}

RECORD_BATCH_ROWS = 4096
"""Rows of a record batch, the unit of random access within a shard."""

_ACTIVATION = 3  # the column
_ZSTD_LEVEL = 1  # level 3 is slower and, on these values, no smaller

# torch runs a copy of more elements on several threads. Loading happens beside the training's own threads, and two teams that
# contend for the same cores are twenty times slower than one thread (measured: 340 against 8,500 MB/s on two busy cores).
_ELEMENTS_ON_ONE_THREAD = 32768


def shard_schema(hookpoint: str, d_in: int, dtype: StoreDtype) -> pa.Schema:
    """The schema of a shard of one hookpoint."""
    activation = pa.list_(pa.field("item", _ARROW_TYPES[dtype], nullable=False), d_in)
    fields = [
        pa.field("sequence_id", pa.uint64(), nullable=False),
        pa.field("position", pa.uint32(), nullable=False),
        pa.field("token_id", pa.uint32(), nullable=False),
        pa.field("activation", activation, nullable=False, metadata={"dtype": dtype}),
    ]
    return pa.schema(fields, metadata={"hookpoint": hookpoint})


def row_bytes(d_in: int, dtype: StoreDtype) -> int:
    """Bytes of a row: its activation, sequence_id, position and token_id."""
    return d_in * TORCH_DTYPES[dtype].itemsize + 16


def ipc_options(compression: Compression) -> pa.ipc.IpcWriteOptions:
    """Return the options with which a shard is written as an Arrow IPC file."""
    codec = pa.Codec("zstd", _ZSTD_LEVEL) if compression == "zstd" else None
    # One thread: a worker has as many as it was given, and Arrow would take every processor of the machine.
    return pa.ipc.IpcWriteOptions(compression=codec, use_threads=False)


class ShardRows:
    """The rows of a shard in the bytes of its object; may be used from several threads.

    Uncompressed rows are views of those bytes. Compressed ones are decoded a record batch at a time, and only the last is kept.

    Args:
        buffer: the whole object.
        schema: of the shard (`shard_schema`).
        compressed: whether it has to be decoded.
        refuse: makes the error for a reason, which is found out only when compressed rows are decoded.

    Raises:
        ArrowFileError: it is no Arrow file of this schema.
    """

    def __init__(self, buffer: pa.Buffer, schema: pa.Schema, compressed: bool = False, refuse: Callable[[str], Exception] = ArrowFileError) -> None:
        self._refuse = refuse
        self._file = ArrowFile(buffer, schema, RECORD_BATCH_ROWS, compressed)
        self.num_rows = self._file.num_rows
        self._lock = threading.Lock()
        self._last: tuple[int, Tensor] | None = None
        field = schema.field(_ACTIVATION)
        self._width = field.type.list_size
        self._dtype = TORCH_DTYPES[field.metadata[b"dtype"].decode()]
        self._views = None if compressed else [self._decode(number) for number in range(self._file.num_batches)]

    def table(self) -> pa.Table:
        """All columns, as Arrow gives them."""
        try:
            return self._file.table()
        except ArrowFileError as error:
            raise self._refuse(str(error)) from None

    def origins(self) -> Iterator[tuple[Shaped[np.ndarray, " row"], ...]]:
        """`(sequence_id, position, token_id)` of the rows of each record batch.

        Raises:
            ArrowFileError: they cannot be decoded.
        """
        for number in range(self._file.num_batches):
            yield tuple(self._file.values(column, number).to_numpy() for column in range(_ACTIVATION))

    def pieces(self, start: int, stop: int) -> list[Shaped[Tensor, "_ d_in"]]:
        """Activations of rows `[start, stop)` in the dtype of the store, one tensor for each record batch they touch.

        They must not be written to: they may be a read-only map of a file.
        """
        number = start // RECORD_BATCH_ROWS
        if self._views is not None and start < stop <= (number + 1) * RECORD_BATCH_ROWS:  # nearly always, and sixty-four times a batch
            first = number * RECORD_BATCH_ROWS
            return [self._views[number][start - first : stop - first]]
        pieces = []
        for number in range(start // RECORD_BATCH_ROWS, -(-stop // RECORD_BATCH_ROWS) if start < stop else 0):
            first = number * RECORD_BATCH_ROWS
            pieces.append(self._record_batch(number)[max(start - first, 0) : stop - first])
        return pieces

    def _record_batch(self, number: int) -> Shaped[Tensor, "row d_in"]:
        if self._views is not None:
            return self._views[number]
        with self._lock:
            if self._last is None or self._last[0] != number:
                self._last = number, self._decode(number)
            return self._last[1]

    def _decode(self, number: int) -> Shaped[Tensor, "row d_in"]:
        try:
            values = self._file.values(_ACTIVATION, number)
        except ArrowFileError as error:
            raise self._refuse(str(error)) from None
        # DLPack, since torch.from_numpy warns about every read-only array.
        return from_dlpack(values).view(self._dtype).view(-1, self._width)


def copy_rows(wanted: list[tuple[ShardRows, int, int, Float[Tensor, "_ d_in"]]]) -> None:
    """Copy rows `[start, stop)` of shards into tensors, in the dtype of those and on the calling thread alone."""
    sources: list[Tensor] = []
    targets: list[Tensor] = []
    alone = torch.get_num_threads() == 1  # of this thread: then nothing need be cut
    for rows, start, stop, target in wanted:
        pieces = rows.pieces(start, stop)
        places = [target] if len(pieces) == 1 else target.split([len(piece) for piece in pieces])
        if alone:
            sources += pieces
            targets += places
            continue
        most = max(1, _ELEMENTS_ON_ONE_THREAD // target.shape[1])
        for piece, place in zip(pieces, places, strict=True):
            # Cut in one call each: this loop is most of what reading costs beside the copies. `unsafe` is for autograd, which is not here.
            sources += torch.unsafe_split(piece, most)
            targets += torch.unsafe_split(place, most)
    # One call for all: a hundred of them a batch would spend more time in Python than in copying.
    torch._foreach_copy_(targets, sources)
