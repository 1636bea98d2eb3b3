"""Tensors of a file that `torch.save` wrote, read as hostile.

Such a file is a ZIP archive with one pickle, and the data of each tensor as an entry of its own. It is read with `weights_only=True`: torch's
unpickler builds tensors and calls nothing. Before that the archive's entries are checked, so that reading takes no more memory than the file.
"""

import io
import re
import zipfile

import torch
from jaxtyping import Shaped
from torch import Tensor

from sae.errors import InputError
from sae.interoperability.reading import SHOWN, refuse_unless, refuse_unless_floating, require

MAX_PICKLE_BYTES = 2**20  # names and shapes of a few tensors


def tensors_of_archive(data: bytes, where: str) -> dict[str, Shaped[Tensor, "..."]]:
    """The tensors by name.

    Raises:
        InputError: the file is damaged, compressed, holds more than tensors, or a tensor that is larger than its data.
    """
    _check_archive(data, where)
    try:
        found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - hostile bytes meet errors of every kind in torch's unpickler
        raise InputError(f"{where} {_reason(error)}. Use another file") from None
    tensors = {str(name): value for name, value in require(found, dict, where, "the file").items()}
    for name, tensor in tensors.items():
        plain = isinstance(tensor, Tensor) and tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
        refuse_unless(plain, f"{where}: {name[:SHOWN]!r} is {type(tensor).__name__}, expected a plain tensor. Use another file")
        stored = tensor.untyped_storage().nbytes()
        refuse_unless(
            tensor.numel() * tensor.element_size() <= stored,
            f"{where}: {name[:SHOWN]!r} is {list(tensor.shape)}, for which its {stored:,} bytes do not suffice: damaged. Use another file",
        )
        whole = not tensor.is_floating_point() and not tensor.is_complex()
        if not (whole and name in ("k", "group_sizes")):
            refuse_unless_floating(tensor.dtype, where, name)
    return tensors


def _check_archive(data: bytes, where: str) -> None:
    damaged = f"{where} is damaged or holds more than tensors: expected a whole archive as torch.save writes it. Copy it again"
    try:
        # A bare pickle, as torch wrote before 1.6, is not even opened.
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            plain = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries) and sum(entry.file_size for entry in entries) <= len(data)
            refuse_unless(plain, f"{where} is a compressed archive, and torch.save compresses nothing. Use another file")
            pickled = sum(entry.file_size for entry in entries if entry.filename.endswith(".pkl"))
            refuse_unless(pickled <= MAX_PICKLE_BYTES, f"{where} holds more than tensors: {pickled:,} bytes of pickle. Use another file")
            refuse_unless(archive.testzip() is None, damaged)
    except InputError:
        raise
    except Exception:  # noqa: BLE001 - damaged archives meet errors of many kinds in zipfile
        raise InputError(damaged) from None


def _reason(error: Exception) -> str:
    """Return torch's message, without its advice to load the file unsafely."""
    called = re.search(r"GLOBAL ([\w.]{1,80})", str(error))
    found = f"asks for {called[1]}" if called else type(error).__name__
    return f"is damaged or holds more than tensors ({found}), and nothing else is read from a pickle"
