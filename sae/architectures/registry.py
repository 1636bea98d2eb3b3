"""Every architecture by its name in a configuration."""

from sae.architectures.base import Dictionary
from sae.architectures.config import SAEConfig
from sae.architectures.relu import ReluDictionary
from sae.architectures.topk import TopKDictionary

ARCHITECTURES: dict[str, type[Dictionary]] = {"relu": ReluDictionary, "topk": TopKDictionary}


def build_dictionary(config: SAEConfig, d_in: int, d_out: int | None = None) -> Dictionary:
    """A new dictionary of the architecture that `config` names, a transcoder if it has `d_out`; call `initialize` before training it."""
    return ARCHITECTURES[config.architecture](config, d_in, d_out)
