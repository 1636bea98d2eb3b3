"""Reading what others wrote as if it were hostile: fixed file names, tensors only, sizes from the tensors and never from a promise."""

from typing import Any, TypeVar

import torch
from jaxtyping import Float, Shaped
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from sae.errors import InputError
from sae.storage import Place

T = TypeVar("T")


def read_safetensors(place: Place, key: str, names: set[str]) -> dict[str, Float[Tensor, "..."]]:
    """The named tensors of a safetensors file, as float32.

    Raises:
        InputError: it is missing or damaged, lacks a name, or has tensors besides.
    """
    where = place.path(key)
    try:
        tensors = load(place.get(key))
    except (SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"{where} is not a whole safetensors file ({' '.join(str(error).split())[:120]}): copy it again") from None
    found = set(tensors)
    if found != names:
        differing = ", ".join(sorted(str(name)[:40] for name in found ^ names)[:6])
        raise InputError(f"{where} lacks or adds tensors ({differing}); expected {', '.join(sorted(names))}: it is of another architecture")
    return {name: as_float32(tensor, where, name) for name, tensor in tensors.items()}


def as_float32(tensor: Shaped[Tensor, "..."], where: str, name: str) -> Float[Tensor, "..."]:
    """A floating tensor in the precision of our weights.

    Raises:
        InputError: it holds whole numbers, complex numbers, or eight-bit floats.
    """
    if tensor.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise InputError(f"{where}: {name[:40]} is of type {tensor.dtype}, expected floating-point weights of 16 to 64 bits: convert it first")
    return tensor.to(torch.float32)


def require(value: Any, kind: type[T], where: str, name: str) -> T:
    """`value`, if it is of the kind.

    Raises:
        InputError: it is not.
    """
    if not isinstance(value, kind):
        raise InputError(f"{where}: {name} is {type(value).__name__}, expected {kind.__name__}: it is of another layout, or damaged")
    return value


def whole_number(value: Any, where: str, name: str) -> int:
    """A positive whole number.

    Raises:
        InputError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or value < 1:
        raise InputError(f"{where}: {name} is {str(value)[:40]!r}, expected a whole number of at least 1: mend the configuration")
    return int(value)


def number(value: Any, where: str, name: str) -> float:
    """A number or a truth value.

    Raises:
        InputError: it is neither.
    """
    if not isinstance(value, bool | int | float):
        raise InputError(f"{where}: {name} is {str(value)[:40]!r}, expected true, false or a number: mend the configuration")
    return float(value)


def refuse_unless(possible: bool, message: str) -> None:
    """Raise InputError with the message unless what it is about is possible."""
    if not possible:
        raise InputError(message)
