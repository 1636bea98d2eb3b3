"""From activations in the order of their tokens to the bytes of a shard: gathered, summed, encoded and hashed in one pass.

A record batch at a time: its rows are gathered into a block that fits the processor's cache, summed there, written behind the last one
into the object, and hashed from there. Nothing but the object itself is ever as large as a shard.

All of it runs on the calling thread, outside Python's lock for nearly all of the time, so that the next shard's forward pass can go on beside it.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
import xxhash
from jaxtyping import Float, Float64, Int64, Shaped, UInt8, UInt32, UInt64
from torch import Tensor

from sae.errors import ConfigError
from sae.store.schema import RECORD_BATCH_ROWS, TORCH_DTYPES, Compression, StoreDtype, ipc_options

_ROWS_IN_CACHE = 256
_ELEMENTS_ON_ONE_THREAD = 32768  # torch takes several threads for more; they would contend with the forward pass beside


@dataclass(frozen=True)
class ShardColumns:
    """Columns of a shard apart from the activations."""

    flat: Int64[np.ndarray, " row"]
    """The token of each row, as an index into the shard's tokens in order."""
    sequence_ids: UInt64[np.ndarray, " row"]
    positions: UInt32[np.ndarray, " row"]
    token_ids: UInt32[np.ndarray, " row"]

    @property
    def origins(self) -> tuple[UInt64[np.ndarray, " row"], UInt32[np.ndarray, " row"], UInt32[np.ndarray, " row"]]:
        """The columns of a shard before its activations, in their order."""
        return self.sequence_ids, self.positions, self.token_ids


class RowSums:
    """Sums over rows x as stored: of x, of ‖x‖ and ‖x‖², and of ‖x‖ at each position.

    Blocks of 256 rows are summed in float32, in NumPy, whose order does not depend on the number of threads; totals are float64.
    """

    def __init__(self, rows: int, d_in: int) -> None:
        self.total: Float64[np.ndarray, " d_in"] = np.zeros(d_in)
        self.squared_norms: Float64[np.ndarray, " row"] = np.empty(rows)
        self._block = np.empty((_ROWS_IN_CACHE, d_in), np.float32)
        self._squares = np.empty(_ROWS_IN_CACHE, np.float32)

    def add(self, first: int, rows: Shaped[Tensor, "row d_in"]) -> bool:
        """Add the rows `[first, first + len(rows))`; False if a value is NaN or infinite."""
        for start in range(0, len(rows), _ROWS_IN_CACHE):
            part = rows[start : start + _ROWS_IN_CACHE]
            values, squares = self._block[: len(part)], self._squares[: len(part)]
            _copy_on_one_thread(part, torch.from_numpy(values))
            np.einsum("ij,ij->i", values, values, out=squares)
            if not np.isfinite(squares).all():
                if not np.isfinite(values).all():
                    return False
                values = values.astype(np.float64)  # finite, but too large to be squared in float32
                squares = np.einsum("ij,ij->i", values, values)
            self.squared_norms[first + start : first + start + len(part)] = squares
            self.total += np.add.reduce(values, axis=0)
        return True


@dataclass(frozen=True)
class EncodedShard:
    """The bytes of a shard, with what its receipt says of them."""

    data: pa.Buffer
    sha256: str
    checksum: str
    sums: RowSums


def encoded_bytes_at_most(rows: int, d_in: int, dtype: StoreDtype) -> int:
    """Bytes that an encoded shard needs at most; zstd adds less than a percent to what it cannot compress."""
    raw = rows * (16 + d_in * TORCH_DTYPES[dtype].itemsize)
    return raw + raw // 100 + 4096 * (rows // RECORD_BATCH_ROWS + 2) + 65536


def encode_shard(
    schema: pa.Schema, compression: Compression, columns: ShardColumns, activations: Float[Tensor, "token d_in"], target: UInt8[np.ndarray, " byte"]
) -> EncodedShard:
    """Encode the rows that `columns.flat` picks from `activations` into the memory of `target`.

    Args:
        schema: of the shard.
        compression: of the plan.
        columns: of the rows.
        activations: at every token of the shard, in the dtype of the store, on the CPU.
        target: at least `encoded_bytes_at_most` long; the result is a view of its beginning.

    Raises:
        ConfigError: an activation that the store's dtype cannot hold.
    """
    field = schema.field("activation")
    source = activations.contiguous().view(torch.uint8).numpy()
    rows, d_in = len(columns.flat), activations.shape[1]
    sums, gathered = RowSums(rows, d_in), np.empty((min(rows, RECORD_BATCH_ROWS), source.shape[1]), np.uint8)
    digests = _Digests(target)
    with pa.FixedSizeBufferWriter(pa.py_buffer(target)) as sink, pa.ipc.new_file(sink, schema, options=ipc_options(compression)) as writer:
        for start in range(0, rows, RECORD_BATCH_ROWS):
            part = slice(start, min(start + RECORD_BATCH_ROWS, rows))
            block = gathered[: part.stop - start]
            np.take(source, columns.flat[part], axis=0, out=block, mode="clip")  # any other mode copies once more
            if not sums.add(start, torch.from_numpy(block).view(activations.dtype)):
                raise _not_finite(torch.from_numpy(block).view(activations.dtype), schema)
            values = pa.Array.from_buffers(field.type.value_type, block.size // activations.itemsize, [None, pa.py_buffer(block)])
            column = pa.FixedSizeListArray.from_arrays(values, type=field.type)
            numbers = [pa.array(numbers[part]) for numbers in columns.origins]
            writer.write_batch(pa.RecordBatch.from_arrays([*numbers, column], schema=schema))
            digests.update(sink.tell())
        writer.close()
        size = sink.tell()
    digests.update(size)
    return EncodedShard(pa.py_buffer(target.data[:size]), digests.sha256.hexdigest(), digests.checksum.hexdigest(), sums)


class _Digests:
    """Both digests of a growing object, a block at a time while it is in the processor's cache."""

    _BLOCK = 2**18

    def __init__(self, target: UInt8[np.ndarray, " byte"]) -> None:
        self._view, self._done = target.data, 0
        self.sha256, self.checksum = hashlib.sha256(), xxhash.xxh3_128()

    def update(self, stop: int) -> None:
        for start in range(self._done, stop, self._BLOCK):
            block = self._view[start : min(start + self._BLOCK, stop)]
            self.sha256.update(block)
            self.checksum.update(block)
        self._done = stop


def _copy_on_one_thread(source: Shaped[Tensor, "row d_in"], target: Float[Tensor, "row d_in"]) -> None:
    rows = max(1, _ELEMENTS_ON_ONE_THREAD // source.shape[1])
    for part, place in zip(source.split(rows), target.split(rows), strict=True):
        place.copy_(part)


def _not_finite(rows: Float[Tensor, "row d_in"], schema: pa.Schema) -> ConfigError:
    hookpoint, dtype = (schema.metadata or {})[b"hookpoint"].decode(), schema.field("activation").metadata[b"dtype"].decode()
    largest = float(rows.float().abs().max())
    advice = "choose bfloat16 or float32" if dtype == "float16" and largest == float("inf") else "run the model in another subject.dtype"
    return ConfigError(
        f"activations at {hookpoint} reach {largest:g}, expected at most {torch.finfo(rows.dtype).max:g} to store them as {dtype}: {advice}"
    )
