"""Dictionaries and half-trained states as safetensors and JSON in a place: whole or not at all, and never a pickle.

A dictionary is `weights.safetensors` and then `config.json` (`sae.dictionary_record`), which holds the digest of the weights. A training
state is one object, `step-<step>-<digest>.safetensors`: its own name says whether it is whole, so no pointer to it can be out of date.
"""

import json
import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Shaped
from safetensors.torch import save
from torch import Tensor

from sae.architectures.base import Dictionary
from sae.architectures.registry import dictionary_to_load, tensors_of
from sae.dictionary_record import CONFIG_KEY, DictionaryMetadata, DictionaryRecord, WeightsEntry, describe_dictionary, put_dictionary_record
from sae.errors import ConfigError, CorruptObjectError, InputError, WidthError
from sae.kernels.candidates import fastest_dtype
from sae.storage import Place, parse_json, sha256_hex
from sae.tensor_files import first_difference, load_tensors, read_header, unusable_tensor

WEIGHTS_KEY = "weights.safetensors"
DIGEST_LENGTH = 16
_STATE_KEY = re.compile(rf"step-[0-9]{{10,}}-[0-9a-f]{{{DIGEST_LENGTH}}}\.safetensors")
UNIT_NORM_TOLERANCE = 1e-3  # of decoder rows; training renormalises them after every step

logger = logging.getLogger(__name__)


@dataclass
class TrainingState:
    """Everything that a run needs to resume after `step` steps; `where` is its file, once it was read."""

    step: int
    tensors: dict[str, Shaped[Tensor, "..."]]
    values: dict[str, Any]
    where: str = "a training state"


def save_dictionary(url: str | os.PathLike[str] | Place, dictionary: Dictionary, metadata: dict[str, Any] | None = None) -> DictionaryRecord:
    """Write a dictionary: its weights, then `config.json`, without which the weights are not taken for a dictionary.

    Args:
        url: the dictionary's own directory.
        dictionary: any member of the registry.
        metadata: fields of `DictionaryMetadata` (hookpoint, subject and store digests, dead fraction, ...); None: those of its origin.

    Raises:
        ConfigError: a field of the metadata is unknown or of a wrong type.
    """
    place = url if isinstance(url, Place) else Place(url)
    if metadata is None:
        metadata = {} if dictionary.origin is None else dictionary.origin.model_dump(mode="json")
    weights = save(_own_memory(dictionary.state_dict()))
    place.put(WEIGHTS_KEY, weights)
    return put_dictionary_record(
        place,
        {
            "architecture": dictionary.architecture,
            "d_in": dictionary.d_in,
            "d_out": dictionary.d_out if dictionary.is_transcoder else None,
            "config": dictionary.config.model_dump(mode="json"),
            "metadata": metadata,
            "weights": {"sha256": sha256_hex(weights), "bytes": len(weights)},
        },
    )


def load_dictionary(url: str | os.PathLike[str] | Place, device: str | torch.device = "cpu") -> Dictionary:
    """Read the dictionary at `url`, ready to encode.

    Its digests, the names, types and shapes of its tensors, and their values are proved first; memory is taken only for what the file holds.

    Raises:
        InputError: there is none.
        ConfigError: its `config.json` was written by another version, or does not fit its weights.
        CorruptObjectError: `config.json` or the weights were changed, cut short or lost, or hold values that nothing can be computed with.
    """
    place = url if isinstance(url, Place) else Place(url)
    record = describe_dictionary(place)
    config, weights = place.path(CONFIG_KEY), read_weights(place, record.weights)
    if max(record.d_in, record.d_out or 0) * record.config.d_sae > len(weights):  # in float32, four bytes each: refused before shapes overflow
        raise ConfigError(f"{config} does not fit {WEIGHTS_KEY}: d_sae {record.config.d_sae} needs more than its {len(weights):,} bytes")
    found, _ = read_header(weights, place.path(WEIGHTS_KEY))
    if different := first_difference(found, tensors_of(record.config, record.d_in, record.d_out)):
        raise ConfigError(f"{config} does not fit {WEIGHTS_KEY}: {different}. Copy the dictionary again, or train or import it again")
    tensors = load_tensors(weights, place.path(WEIGHTS_KEY))
    dictionary = dictionary_to_load(record.config, record.d_in, record.d_out)
    dictionary.load_state_dict(tensors)
    if problem := unusable_tensor(tensors) or _broken_promise(dictionary, record.metadata):
        raise CorruptObjectError(f"{place.path(WEIGHTS_KEY)}: {problem}. Train or import the dictionary again")
    dictionary.origin = record.metadata
    return dictionary.to(device).eval()


def save_state(place: Place, state: TrainingState, kept: int = 2) -> None:
    """Write a training state and remove older ones, so that `kept` remain. Other files of the place are left alone."""
    data = save(_own_memory(state.tensors), metadata={"step": str(state.step), "values": json.dumps(state.values, allow_nan=False)})
    key = f"step-{state.step:010d}-{sha256_hex(data)[:DIGEST_LENGTH]}.safetensors"
    place.put(key, data)
    others = [other for other in state_keys(place) if other != key]
    for other in sorted(others, reverse=True)[kept - 1 :]:
        place.delete(other)


def restore_state(place: Place, at_step: int | None = None) -> TrainingState | None:
    """The newest whole training state, or None where there is none; with `at_step`, one saved after that very step.

    A damaged one is reported in the log and removed, and the one before it is used.

    Raises:
        InputError: its name fits its content, and its content is no training state of that step.
    """
    for key in sorted(state_keys(place), reverse=True):
        step, _, digest = key.removeprefix("step-").removesuffix(".safetensors").partition("-")
        if at_step is not None and int(step) != at_step:
            continue
        data = place.get(key)
        if sha256_hex(data)[:DIGEST_LENGTH] == digest:
            return _parsed_state(data, int(step), place.path(key))
        logger.warning("training state %s is cut short or changed (%s bytes): going back to the one before it", place.path(key), f"{len(data):,}")
        place.delete(key)
    return None


def _parsed_state(data: bytes, step: int, where: str) -> TrainingState:
    _, metadata = read_header(data, where)
    if metadata.get("step") != str(step):
        raise InputError(f"{where} was saved after step {metadata.get('step', 'unknown')[:20]}, and its name says {step}. Delete it")
    values = parse_json(metadata.get("values", ""), f"`values` in the header of {where}")
    tensors = load_tensors(data, where)
    if problem := unusable_tensor(tensors, largest=torch.finfo(torch.float32).max):
        raise InputError(f"{where}: {problem}. Delete it: training resumes from the state before it")
    return TrainingState(step, tensors, values, where)


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


def read_weights(place: Place, expected: WeightsEntry) -> bytes:
    """Read the weights of a dictionary and prove them.

    Raises:
        CorruptObjectError: they are missing, or not those that its record names.
    """
    try:
        weights = place.get(WEIGHTS_KEY)
    except InputError:
        raise CorruptObjectError(f"{place.path(WEIGHTS_KEY)} is missing although {CONFIG_KEY} promises it: train the dictionary again") from None
    if len(weights) != expected.bytes or sha256_hex(weights) != expected.sha256:
        raise CorruptObjectError(
            f"{place.path(WEIGHTS_KEY)} has {len(weights):,} bytes and another digest than {CONFIG_KEY} promises ({expected.bytes:,} bytes): "
            "copy it again, or train the dictionary again"
        )
    return weights


@torch.no_grad()
def _broken_promise(dictionary: Dictionary, origin: DictionaryMetadata) -> str | None:
    """The first thing that the architecture promises of its weights and they lack, as a phrase; None where they keep all."""
    for name in ("input_scale", "output_scale"):
        scale = getattr(dictionary, name)
        if scale is not None and not scale > 0:
            return f"{name} is {scale.item():.3g}, expected a positive number"
    if dictionary.unit_norm_decoder and origin.imported is None:  # training keeps the norms; another library may not have
        norms = torch.linalg.vector_norm(dictionary.W_dec, dim=1)
        wrong = (((norms - 1).abs() > UNIT_NORM_TOLERANCE) & (norms > 0)).nonzero().flatten()
        if len(wrong):
            feature = int(wrong[0])
            return f"row {feature} of W_dec has norm {norms[feature].item():.4g}, and {dictionary.architecture!r} has unit norms"
    threshold = getattr(dictionary, "threshold", None)
    if threshold is not None and not (threshold >= 0).all():
        return f"a threshold is {threshold.min().item():.3g}, expected one of at least 0"
    return None


def _own_memory(tensors: dict[str, Shaped[Tensor, "..."]]) -> dict[str, Shaped[Tensor, "..."]]:
    # safetensors refuses tensors that share memory or are laid out in another order.
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def load_dictionaries(
    urls: dict[str, str], hookpoint: str, target_hookpoints: dict[str, str], width: Callable[[str], int], device: str = "cpu"
) -> dict[str, Dictionary]:
    """Dictionaries by name, for evaluation.

    Args:
        urls: where they lie.
        hookpoint: what all of them encode.
        target_hookpoints: what those that are transcoders reconstruct.
        width: of a hookpoint.
        device: where they go.

    Raises:
        WidthError: a dictionary of another width than its hookpoint.
    """
    dictionaries = {name: load_dictionary(url, device) for name, url in urls.items()}
    for name, dictionary in dictionaries.items():
        dictionary.encode_dtype = fastest_dtype(device)
        for side, found, point in (("d_in", dictionary.d_in, hookpoint), ("d_out", dictionary.d_out, target_hookpoints.get(name, hookpoint))):
            if found != (there := width(point)):
                raise WidthError(f"dictionary {name!r} has {side} {found}, but {point!r} is {there} wide: evaluate it with its own subject and store")
    return dictionaries
