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
"""

from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Float32, Shaped, UInt32, UInt64
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from sae.errors import ConfigError

StoreDtype = Literal["float16", "float32", "bfloat16"]
TORCH_DTYPES: dict[str, torch.dtype] = {"float16": torch.float16, "float32": torch.float32, "bfloat16": torch.bfloat16}
_ARROW_TYPES = {"float16": pa.float16(), "float32": pa.float32(), "bfloat16": pa.uint16()}

RECORD_BATCH_ROWS = 4096
"""Rows of a record batch, the unit of random access within a shard."""

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


def to_stored_dtype(activations: Float[Tensor, "*shape d_in"], dtype: StoreDtype, hookpoint: str) -> Float[Tensor, "*shape d_in"]:
    """Round activations to the precision of the store.

    Raises:
        ConfigError: a value is NaN, infinite, or beyond the range of `dtype`.
    """
    stored = activations.to(TORCH_DTYPES[dtype])
    if not bool(torch.isfinite(stored).all()):
        largest = float(activations.detach().abs().max())
        limit = torch.finfo(TORCH_DTYPES[dtype]).max
        advice = "the subject model itself overflows: run it in another subject.dtype" if not largest < float("inf") else "choose bfloat16 or float32"
        raise ConfigError(f"activations at {hookpoint} reach {largest:g}, expected at most {limit:g} to store them as {dtype}: {advice}")
    return stored


def rows_to_ipc(
    schema: pa.Schema,
    sequence_ids: UInt64[np.ndarray, " row"],
    positions: UInt32[np.ndarray, " row"],
    token_ids: UInt32[np.ndarray, " row"],
    activations: Float[Tensor, "row d_in"],
) -> pa.Buffer:
    """Rows as one Arrow IPC file in memory, uncompressed, in record batches of `RECORD_BATCH_ROWS`."""
    stored = activations.detach().cpu().contiguous()
    numbers = stored.view(torch.uint16).numpy() if stored.dtype is torch.bfloat16 else stored.numpy()
    values = pa.array(numbers.reshape(-1), type=schema.field("activation").type.value_type)
    column = pa.FixedSizeListArray.from_arrays(values, type=schema.field("activation").type)
    table = pa.table([pa.array(sequence_ids), pa.array(positions), pa.array(token_ids), column], schema=schema)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_table(table, max_chunksize=RECORD_BATCH_ROWS)
    return sink.getvalue()


def activation_pieces(table: pa.Table, start: int, stop: int) -> list[Shaped[Tensor, "_ d_in"]]:
    """Rows `[start, stop)` of a shard's activations, one tensor per record batch they touch; views, nothing is copied.

    The tensors have the dtype of the store. They must not be written to: they may be a read-only map of a file.
    """
    field = table.schema.field("activation")
    dtype = TORCH_DTYPES[(field.metadata or {}).get(b"dtype", b"").decode()]
    chunks = table.column("activation").slice(start, stop - start).chunks
    # DLPack, since torch.from_numpy warns about every read-only array. `flatten` honours a slice, `values` would not.
    return [from_dlpack(chunk.flatten()).view(dtype).view(-1, field.type.list_size) for chunk in chunks if len(chunk)]


def copy_rows(source: Shaped[Tensor, "row d_in"], target: Float32[Tensor, "row d_in"]) -> None:
    """Copy stored rows into a float32 tensor, on the calling thread alone."""
    rows = max(1, _ELEMENTS_ON_ONE_THREAD // target.shape[1])
    for piece, place in zip(source.split(rows), target.split(rows), strict=True):
        place.copy_(piece)
