"""Tensors in safetensors files, proved before they are used: the header is checked before any tensor is allocated."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Shaped
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from sae.errors import InputError
from sae.storage import parse_json

LENGTH_BYTES = 8  # of the header, little-endian, at the start of a file
METADATA = "__metadata__"
LARGEST = 1e10  # squares of products of two such weights, summed over an activation, stay below float32's 3e38
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


@dataclass(frozen=True)
class TensorShape:
    """Data type and shape of a tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')} {list(self.shape)}"


def shapes_of(tensors: Mapping[str, Shaped[Tensor, "..."]]) -> dict[str, TensorShape]:
    """Data types and shapes of tensors by name."""
    return {name: TensorShape(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}


def read_header(data: bytes, where: str) -> tuple[dict[str, TensorShape], dict[str, str]]:
    """Read the header of a safetensors file.

    Args:
        data: the whole file.
        where: file or URL, for messages.

    Returns:
        The tensors by name, and the file's metadata.

    Raises:
        InputError: the header is longer than the file, is not JSON, or describes no tensors.
    """
    length = int.from_bytes(data[:LENGTH_BYTES], "little")
    if not 0 < length <= len(data) - LENGTH_BYTES:
        raise InputError(f"{where} is not a safetensors file: its header would have {length:,} bytes, the file has {len(data):,}. Copy it again")
    header = parse_json(data[LENGTH_BYTES : LENGTH_BYTES + length], f"the header of {where}")
    if not isinstance(header, dict):
        raise InputError(f"the header of {where} is not an object: it is not a safetensors file. Copy it again")
    metadata = header.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise InputError(f"{METADATA} in the header of {where} must hold texts alone. Copy the file again")
    return {name: _entry(name, value, where) for name, value in header.items()}, metadata


def first_difference(found: Mapping[str, TensorShape], expected: Mapping[str, TensorShape]) -> str | None:
    """The first tensor that is missing, unknown, or of another type or shape, as a phrase; None where there is no difference."""
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            return f"tensor {name!r} ({expected[name]}) is missing"
        if name not in expected:
            return f"tensor {name[:40]!r} ({found[name]}) is unknown"
        if found[name] != expected[name]:
            return f"tensor {name!r} is {found[name]}, expected {expected[name]}"
    return None


def load_tensors(data: bytes, where: str) -> dict[str, Shaped[Tensor, "..."]]:
    """Load the tensors of a file whose header was checked.

    Raises:
        InputError: header and data do not fit each other.
    """
    try:
        return load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"{where} is not a whole safetensors file ({' '.join(str(error).split())[:200]}). Copy it again") from None


def unusable_tensor(tensors: Mapping[str, Shaped[Tensor, "..."]], largest: float = LARGEST) -> str | None:
    """The first tensor with a value that is not finite or larger than `largest`, as a phrase; None where all can be computed with."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.numel():
            low, high = (bound.item() for bound in torch.aminmax(tensor))
            if not (-largest <= low and high <= largest):  # false for NaN, too
                return f"tensor {name!r} holds values from {low:.3g} to {high:.3g}, expected finite ones of at most {largest:.0e}"
    return None


def _entry(name: str, value: Any, where: str) -> TensorShape:
    dtype, shape = (value.get("dtype"), value.get("shape")) if isinstance(value, dict) else (None, None)
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise InputError(f"tensor {name[:40]!r} in {where} has the data type {str(dtype)[:40]!r}. Possible types: {', '.join(DTYPES)}")
    if not isinstance(shape, list) or not all(type(size) is int and 0 <= size < 2**63 for size in shape):
        raise InputError(f"tensor {name[:40]!r} in {where} has the shape {str(shape)[:40]}, expected a list of sizes. Copy the file again")
    return TensorShape(DTYPES[dtype], tuple(shape))
