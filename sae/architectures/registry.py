"""Every architecture by its name in a configuration."""

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
