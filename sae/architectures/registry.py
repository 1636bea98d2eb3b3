"""Every architecture by its name in a configuration."""

import torch

from sae.architectures.base import Dictionary
from sae.architectures.batch_topk import BatchTopKDictionary
from sae.architectures.config import SAEConfig
from sae.architectures.gated import GatedDictionary
from sae.architectures.jumprelu import JumpReluDictionary
from sae.architectures.matryoshka import MatryoshkaDictionary
from sae.architectures.p_annealing import PAnnealingDictionary
from sae.architectures.relu import ReluDictionary
from sae.architectures.relu_april import ReluAprilDictionary
from sae.architectures.tied import TiedDictionary
from sae.architectures.topk import TopKDictionary
from sae.tensor_files import TensorShape, shapes_of

ARCHITECTURES: dict[str, type[Dictionary]] = {
    "relu": ReluDictionary,
    "relu_april": ReluAprilDictionary,
    "tied": TiedDictionary,
    "p_annealing": PAnnealingDictionary,
    "gated": GatedDictionary,
    "topk": TopKDictionary,
    "batch_topk": BatchTopKDictionary,
    "matryoshka": MatryoshkaDictionary,
    "jumprelu": JumpReluDictionary,
}


def build_dictionary(config: SAEConfig, d_in: int, d_out: int | None = None) -> Dictionary:
    """A new dictionary of the architecture that `config` names, a transcoder if it has `d_out`; call `initialize` before training it."""
    return ARCHITECTURES[config.architecture](config, d_in, d_out)


def dictionary_to_load(config: SAEConfig, d_in: int, d_out: int | None = None) -> Dictionary:
    """A dictionary whose weights hold any values until they are loaded."""
    return ARCHITECTURES[config.architecture](config, d_in, d_out, drawn=False)


def tensors_of(config: SAEConfig, d_in: int, d_out: int | None = None) -> dict[str, TensorShape]:
    """Data types and shapes of a dictionary's tensors, by name; nothing is allocated."""
    with torch.device("meta"):
        return shapes_of(dictionary_to_load(config, d_in, d_out).state_dict())
