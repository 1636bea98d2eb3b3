"""Dictionaries and half-trained states as safetensors and JSON in a place: whole or not at all, and never a pickle.

A dictionary is `weights.safetensors` and then `config.json`, which holds the digest of the weights. A training state is one object,
`step-<step>-<digest>.safetensors`: its own name says whether it is whole, so no pointer to it can be out of date.
"""

import json
import logging
import os
import re
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Shaped
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load, save
from torch import Tensor

from sae.architectures.base import Dictionary
from sae.architectures.config import SAEConfig
from sae.architectures.registry import build_dictionary
from sae.config import describe_problem
from sae.errors import ConfigError, CorruptObjectError, InputError
from sae.storage import Place, sha256_hex

FORMAT_VERSION = 1
CONFIG_KEY = "config.json"
WEIGHTS_KEY = "weights.safetensors"
DIGEST_LENGTH = 16
_STATE_KEY = re.compile(rf"step-[0-9]{{10,}}-[0-9a-f]{{{DIGEST_LENGTH}}}\.safetensors")

logger = logging.getLogger(__name__)


@dataclass
class TrainingState:
    """Everything that a run needs to go on after `step` steps."""

    step: int
    tensors: dict[str, Shaped[Tensor, "..."]]
    values: dict[str, Any]


def save_dictionary(place: Place, dictionary: Dictionary, metadata: dict[str, Any]) -> None:
    """Write a dictionary: its weights, then `config.json`, without which the weights are not taken for a dictionary.

    Args:
        place: the dictionary's own directory.
        dictionary: any member of the registry.
        metadata: JSON values about its origin (hookpoint, subject and store digests, dead fraction, ...).
    """
    weights = save(_own_memory(dictionary.state_dict()))
    config = {
        "format_version": FORMAT_VERSION,
        "architecture": dictionary.architecture,
        "d_in": dictionary.d_in,
        **({"d_out": dictionary.d_out} if dictionary.is_transcoder else {}),
        "config": dictionary.config.model_dump(mode="json"),
        "metadata": metadata,
        "weights": {"sha256": sha256_hex(weights), "bytes": len(weights)},
    }
    place.put(WEIGHTS_KEY, weights)
    place.put_json(CONFIG_KEY, config)


def load_dictionary(url: str | os.PathLike[str] | Place, device: str | torch.device = "cpu") -> Dictionary:
    """Read the dictionary that lies at `url`, ready to encode.

    Raises:
        InputError: there is none.
        ConfigError: its `config.json` was not written by this version, or does not fit its weights.
        CorruptObjectError: the weights are missing, cut short or changed.
    """
    place = url if isinstance(url, Place) else Place(url)
    config = place.get_json(CONFIG_KEY)
    if not isinstance(config, dict) or config.get("format_version") != FORMAT_VERSION:
        raise ConfigError(f"{place.path(CONFIG_KEY)} is not of format version {FORMAT_VERSION}: load it with the version of this tool that wrote it")
    try:
        dictionary = build_dictionary(TypeAdapter(SAEConfig).validate_python(config["config"]), config["d_in"], config.get("d_out"))
        expected = config["weights"]
        size, digest = expected["bytes"], expected["sha256"]
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{place.path(CONFIG_KEY)} lacks or misuses {error}: it was not written by this tool, or was edited") from None
    except ValidationError as error:
        raise ConfigError(f"{place.path(CONFIG_KEY)}: {'; '.join(map(describe_problem, error.errors()))}") from None
    weights = _read_weights(place, size, digest)
    try:
        dictionary.load_state_dict(load(weights))
    except RuntimeError as error:
        raise ConfigError(f"{place.path(CONFIG_KEY)} does not fit {WEIGHTS_KEY}: {' '.join(str(error).split())}") from None
    return dictionary.to(device).eval()


def save_state(place: Place, state: TrainingState, kept: int = 2) -> None:
    """Write a training state and remove older ones, so that `kept` remain. Other files of the place are left alone."""
    data = save(_own_memory(state.tensors), metadata={"values": json.dumps(state.values)})
    key = f"step-{state.step:010d}-{sha256_hex(data)[:DIGEST_LENGTH]}.safetensors"
    place.put(key, data)
    others = [other for other in state_keys(place) if other != key]
    for other in sorted(others, reverse=True)[kept - 1 :]:
        place.delete(other)


def restore_state(place: Place, at_step: int | None = None) -> TrainingState | None:
    """The newest whole training state, or None where there is none; with `at_step`, one saved after that very step.

    A damaged one is reported in the log and removed, and the one before it is used.
    """
    for key in sorted(state_keys(place), reverse=True):
        step, _, digest = key.removeprefix("step-").removesuffix(".safetensors").partition("-")
        if at_step is not None and int(step) != at_step:
            continue
        data = place.get(key)
        if sha256_hex(data)[:DIGEST_LENGTH] == digest:
            header_length = int.from_bytes(data[:8], "little")
            values = json.loads(data[8 : 8 + header_length])["__metadata__"]["values"]
            return TrainingState(int(step), load(data), json.loads(values))
        logger.warning("training state %s is cut short or changed (%s bytes): going back to the one before it", place.path(key), f"{len(data):,}")
        place.delete(key)
    return None


def delete_states(place: Place) -> None:
    """Remove the training states of a place, once the finished dictionary is written. Other files of the place are left alone."""
    for key in state_keys(place):
        place.delete(key)


def state_keys(place: Place) -> list[str]:
    """The keys of the training states in a place, the oldest first: those whose names `save_state` could have given."""
    return [key for key in place.list() if _STATE_KEY.fullmatch(key)]


def put_json_lines(place: Place, key: str, rows: list[dict[str, Any]]) -> None:
    """Write `rows` as JSON lines."""
    lines = (json.dumps(row, sort_keys=True, ensure_ascii=False, allow_nan=False) for row in rows)
    place.put(key, "".join(f"{line}\n" for line in lines).encode())


def _read_weights(place: Place, size: int, digest: str) -> bytes:
    try:
        weights = place.get(WEIGHTS_KEY)
    except InputError:
        raise CorruptObjectError(f"{place.path(WEIGHTS_KEY)} is missing although {CONFIG_KEY} promises it: train the dictionary again") from None
    if len(weights) != size or sha256_hex(weights) != digest:
        raise CorruptObjectError(
            f"{place.path(WEIGHTS_KEY)} has {len(weights):,} bytes and another digest than {CONFIG_KEY} promises ({size:,} bytes): "
            "copy it again, or train the dictionary again"
        )
    return weights


def _own_memory(tensors: dict[str, Shaped[Tensor, "..."]]) -> dict[str, Shaped[Tensor, "..."]]:
    # safetensors refuses tensors that share memory or are laid out in another order.
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
