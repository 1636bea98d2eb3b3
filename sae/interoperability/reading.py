"""Reading what others wrote as if it were hostile: fixed file names, bounded sizes, tensors only, shapes from the tensors alone."""

import json
import math
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from sae.errors import InputError
from sae.storage import Place, parse_json
from sae.tensor_files import load_tensors, read_header

T = TypeVar("T")
MAX_CONFIG_BYTES = 2**22
MAX_WEIGHT_BYTES = 2**37
SLACK_BYTES = 2**20  # header, names, alignment
SHOWN = 40  # characters of a value in a message
PRECISIONS = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)}


def read_config(place: Place, key: str) -> dict[str, Any]:
    """The configuration that another library wrote.

    Raises:
        InputError: it is missing, larger than any configuration, not JSON, or no object.
    """
    where = place.path(key)
    size = _size(place, key)
    refuse_unless(size <= MAX_CONFIG_BYTES, f"{where} has {size:,} bytes, a configuration at most {MAX_CONFIG_BYTES:,}. Use another file")
    return require(parse_json(place.get(key), where), dict, where, "the file")


def read_weights(place: Place, key: str, sizes: Collection[Any]) -> bytes:
    """The bytes of a file of weights, no more than its configuration accounts for.

    Args:
        place: its directory.
        key: its name.
        sizes: widths and number of features as the configuration gives them; anything else than sizes sets no limit of its own.

    Raises:
        InputError: it is missing or larger.
    """
    known = [size for size in sizes if type(size) is int and size > 0]
    values = 4 * math.prod(sorted(known)[-2:]) + 16 * sum(known)
    limit = min(8 * values + SLACK_BYTES, MAX_WEIGHT_BYTES) if len(known) == len(sizes) else MAX_WEIGHT_BYTES
    size = _size(place, key)
    refuse_unless(
        size <= limit, f"{place.path(key)} has {size:,} bytes, and its configuration accounts for at most {limit:,}: they do not belong together"
    )
    return place.get(key)


def _size(place: Place, key: str) -> int:
    """Bytes of an object, without reading it; one that is missing has none, and reading it says so."""
    local = place.local_path(key)
    if local is None:
        return sum(entry.bytes for entry in place.entries() if entry.key == key)
    refuse_unless(local.is_file() or not local.exists(), f"{local} is no regular file. Use another file")
    return local.stat().st_size if local.exists() else 0


def read_safetensors(
    place: Place, key: str, names: set[str], sizes: Collection[Any], optional: Collection[str] = ()
) -> dict[str, Shaped[Tensor, "..."]]:
    """The named tensors of a safetensors file, in the precision they were written in.

    Raises:
        InputError: it is missing, damaged or too large, lacks a name, has other tensors, or one that holds no floating-point weights.
    """
    where = place.path(key)
    data = read_weights(place, key, sizes)
    header, _ = read_header(data, where)
    refuse_other_names(header, names, where, optional)
    for name, described in header.items():
        refuse_unless_floating(described.dtype, where, name)
    return load_tensors(data, where)


def refuse_other_names(found: Collection[str], expected: set[str], where: str, optional: Collection[str] = ()) -> None:
    """Refuse tensors that are missing or unknown.

    Raises:
        InputError: naming both.
    """
    missing, unknown = sorted(expected - set(found)), sorted(str(name) for name in set(found) - expected - set(optional))
    if missing or unknown:
        phrases = [
            f"{phrase} {', '.join(printable(name) for name in names[:6])}" for phrase, names in (("lacks", missing), ("also has", unknown)) if names
        ]
        raise InputError(f"{where} {' and '.join(phrases)}. Expected: {', '.join(sorted(expected))}. It is of another architecture or version")


def refuse_unless_floating(dtype: torch.dtype, where: str, name: str) -> None:
    """Refuse whole numbers, complex numbers and eight-bit floats.

    Raises:
        InputError: naming tensor and type.
    """
    if dtype not in PRECISIONS.values():
        raise InputError(f"{where}: {printable(name)} is of type {dtype}, expected floating-point weights of 16 to 64 bits. Convert it first")


def in_precision(tensors: Mapping[str, Shaped[Tensor, "..."]], dtype: torch.dtype | None = None) -> dict[str, Float[Tensor, "..."]]:
    """Weights in the precision of ours, after rounding to the one that their library computes in."""
    return {name: (tensor if dtype is None else tensor.to(dtype)).to(torch.float32) for name, tensor in tensors.items()}


def require(value: Any, kind: type[T], where: str, name: str) -> T:
    """`value`, if it is of the kind.

    Raises:
        InputError: it is not.
    """
    if not isinstance(value, kind):
        raise InputError(f"{where}: {name} is {type(value).__name__}, expected {kind.__name__}. The file is of another layout, or damaged")
    return value


def whole_number(value: Any, where: str, name: str) -> int:
    """A positive whole number.

    Raises:
        InputError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or value < 1:
        raise InputError(f"{where}: {name} is {shown(value)}, expected a whole number of at least 1. Correct the configuration")
    return int(value)


def truth(value: Any, where: str, name: str) -> bool:
    """A truth value, also written as 0 or 1.

    Raises:
        InputError: it is none.
    """
    if not isinstance(value, bool | int | float) or value not in (0, 1):
        raise InputError(f"{where}: {name} is {shown(value)}, expected true or false. Correct the configuration")
    return bool(value)


def refuse_unless(possible: bool, message: str) -> None:
    """Raise InputError with the message unless what it is about is possible."""
    if not possible:
        raise InputError(message)


def refuse_unless_equal(promised: Any, found: int, where: str, name: str) -> None:
    """Refuse a size of the configuration that the weights do not have.

    Raises:
        InputError: naming both.
    """
    if type(promised) is not int or promised != found:
        raise InputError(f"{where}: {name} is {shown(promised)}, but the weights have {found}: the two files do not belong together")


def shown(value: Any) -> str:
    """A value from outside as JSON, short enough for a message."""
    text = json.dumps(value, ensure_ascii=True) if not isinstance(value, str) else repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def printable(name: str, length: int = SHOWN) -> str:
    """A name from outside in one line, without characters that a terminal obeys."""
    return "".join(mark if mark.isprintable() else "\N{REPLACEMENT CHARACTER}" for mark in name[:length])
