"""Local model directories, checked file by file before a library is asked to read them."""

import functools
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from sae.errors import InputError
from sae.storage import parse_json

MAX_CONFIG_BYTES = 2**24  # label lists of classifiers are long
MAX_TOKENIZER_BYTES = 2**28  # the tokenizer of 262,144 tokens has 33 MB
HUB_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors.index.json")
MOST_LAYERS, MOST_EXPERTS, LARGEST_SIZE = 1024, 4096, 2**24
PACKED_VALUES = 16  # a quantised tensor holds so many weights in one value, at most
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_SIZE_KEY = re.compile(r"layer|depth|block|expert|size|dim|head|embd|hidden|position|inner|intermediate|^n_|^num_|d_model|d_ff|d_kv|rank")
_GGUF_ADVICE = (
    'Convert it: python -c "from transformers import AutoModelForCausalLM, AutoTokenizer; '
    "[each.from_pretrained('DIR', gguf_file='FILE.gguf').save_pretrained('OUT') for each in (AutoModelForCausalLM, AutoTokenizer)]\""
)


def check_directory(directory: Path) -> None:
    """Check the files of a local model: config.json, the headers of its safetensors files, and that there is a tokenizer.

    Raises:
        InputError: a file is missing, damaged, or describes a model that its weight files cannot hold.
    """
    for path in sorted(each for pattern in ("*.json", "*.txt", "*.model", "*.safetensors") for each in directory.glob(pattern)):
        _refuse_pointer(path)
        if path.suffix != ".safetensors" and path.is_file():
            _check_bytes(path)
    config = _read_config(directory)
    values = sum(_count_values(path) for path in _weight_files(directory))
    if not any(directory.glob("*token*")) and not any((directory / name).is_file() for name in ("vocab.json", "vocab.txt")):
        raise InputError(f"{str(directory)!r} has no tokenizer.json. Copy the tokenizer's files from where the model comes from")
    _check_sizes(config, str(directory / "config.json"), values)


@functools.cache
def check_hub_files(name: str) -> None:
    """Check the size of configuration and tokenizer of a model of the hub, and the sizes that its configuration states; files are fetched.

    What cannot be fetched is left to the library that loads the model, which says why.

    Raises:
        InputError: a file is too large, or the configuration describes a model that is too large.
    """
    from transformers.utils import cached_file  # a second of import

    for key in HUB_FILES:
        try:
            found = cached_file(name, key, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False)
        except (OSError, ValueError):
            return
        if found is not None:
            _check_bytes(Path(found))
            if key == "config.json":
                _check_sizes(_parse_config(Path(found)), found, LARGEST_SIZE)


def refuse_gguf(path: Path) -> None:
    """Refuse a GGUF file or a directory that holds nothing else, with the command that converts it.

    Raises:
        InputError: it is one.
    """
    if path.suffix.lower() == ".gguf" or (path.is_dir() and not (path / "config.json").is_file() and any(path.glob("*.gguf"))):
        raise InputError(f"{str(path)!r} is a GGUF model, which is not read. {_GGUF_ADVICE}")


def _read_config(directory: Path) -> dict[str, Any]:
    path = directory / "config.json"
    refuse_gguf(directory)
    if not path.is_file():
        raise InputError(f"{str(directory)!r} has no config.json, so it is not a model directory. Check `subject.model`")
    return _parse_config(path)


def _parse_config(path: Path) -> dict[str, Any]:
    config = parse_json(path.read_bytes(), str(path))
    if not isinstance(config, dict):
        raise InputError(f"{str(path)!r} holds a {type(config).__name__}, expected an object. Copy the model again")
    return config


def _check_bytes(path: Path) -> None:
    """Bound what a parser would hold in memory."""
    most = MAX_TOKENIZER_BYTES if path.name != "config.json" else MAX_CONFIG_BYTES
    if (size := path.stat().st_size) > most:
        raise InputError(f"{str(path)!r} has {size:,} bytes, expected at most {most:,}. Copy the model again")


def _weight_files(directory: Path) -> list[Path]:
    if (directory / WEIGHTS).is_file():
        return [directory / WEIGHTS]
    index = directory / INDEX
    if not index.is_file():
        pickles = [path.name for path in directory.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")]
        if pickles:
            raise InputError(
                f"{str(directory)!r} has its weights in {sorted(pickles)[0]!r}, and only safetensors files are read, since a pickle can run code. "
                "Where you trust it, convert it: AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(OUT)"
            )
        raise InputError(f"{str(directory)!r} has no {WEIGHTS}. Copy the model again")
    content = parse_json(index.read_bytes(), str(index))
    names = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) and "/" not in name for name in names.values()):
        raise InputError(f"{str(index)!r} has no 'weight_map' from tensors to files in the same directory. Copy the model again")
    files = [directory / name for name in sorted(set(names.values()))]
    if missing := [path.name for path in files if not path.is_file()]:
        raise InputError(f"{str(directory)!r} lacks {len(missing)} of its {len(files)} weight files, {missing[0]!r} first. Copy the model again")
    return files


def _count_values(path: Path) -> int:
    """The values in all tensors of a safetensors file; the library proves header, offsets and length, and reads no tensor."""
    try:
        with safe_open(path, framework="numpy") as tensors:
            return sum(_product(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118 -- it is no mapping
    except (SafetensorError, OSError, ValueError, OverflowError) as error:
        raise InputError(f"{str(path)!r} is damaged or not a safetensors file ({' '.join(str(error).split())[:200]}). Copy the model again") from None


def _refuse_pointer(path: Path) -> None:
    if not path.is_file():
        return
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror}. Check its permissions") from None
    if head.startswith(b"version https://git-lfs"):
        raise InputError(f"{str(path)!r} is a Git LFS pointer, not the file. Run `git lfs pull` where the model was cloned")


def _product(shape: list[int]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product


def _check_sizes(config: dict[str, Any], where: str, values: int) -> None:
    """Bound what a library would allocate or loop over when it builds the model."""
    for key, value in config.items():
        if isinstance(value, dict):
            _check_sizes(value, where, values)
        if isinstance(value, bool) or not isinstance(value, int | float) or not _SIZE_KEY.search(key):
            continue
        most = MOST_LAYERS if re.search(r"layer|depth|block", key) and "size" not in key else MOST_EXPERTS if "expert" in key else LARGEST_SIZE
        if "vocab" in key or "hidden_size" in key or "intermediate" in key:
            most = min(most, PACKED_VALUES * values)
        if not -1 <= value <= most:
            raise InputError(f"{key!r} in {where!r} is {str(value)[:30]}, expected at most {most:,}. Copy the model again")
