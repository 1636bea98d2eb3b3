"""Every architecture by its name in a configuration, and `register` for further ones."""

import torch

from sae.architectures.base import Dictionary
from sae.architectures.batch_topk import BatchTopKDictionary
from sae.architectures.config import BUILT_IN, ENTRY_POINTS, REGISTERED, SAEConfig, registered
from sae.architectures.gated import GatedDictionary
from sae.architectures.jumprelu import JumpReluDictionary
from sae.architectures.matryoshka import MatryoshkaDictionary
from sae.architectures.p_annealing import PAnnealingDictionary
from sae.architectures.relu import ReluDictionary
from sae.architectures.relu_april import ReluAprilDictionary
from sae.architectures.tied import TiedDictionary
from sae.architectures.topk import TopKDictionary
from sae.config import Config
from sae.errors import ConfigError
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


def register(name: str, config: type[Config], dictionary: type[Dictionary]) -> None:
    """Add an architecture of one's own: it is trained, evaluated, interpreted, saved and loaded like the built-in ones.

    Call it in the module that defines the classes, so that importing the module registers it. A command and the workers of a cluster import it by
    themselves where it is an installed package with an entry point of the group `monosem.architectures`. Registering a name again replaces it.

    Args:
        name: value of the key `architecture`.
        config: its configuration, with the fields `architecture: Literal[name] = name` and `d_sae`.
        dictionary: its dictionary. It can be trained with its features spread over workers only if it sets `feature_parallel` itself.

    Raises:
        ConfigError: the name is taken by a built-in architecture, or the classes are not what is described here.

    Example:
        >>> from typing import Literal
        >>> from sae.architectures.config import TopKConfig
        >>> from sae.architectures.topk import TopKDictionary
        >>> class MyConfig(TopKConfig):
        ...     architecture: Literal["mine"] = "mine"
        >>> class MyDictionary(TopKDictionary):
        ...     config: MyConfig
        >>> register("mine", MyConfig, MyDictionary)
        >>> build_dictionary(MyConfig(d_sae=8, k=2), d_in=4)
        MyDictionary(d_in=4, d_sae=8, k=2)
    """
    if name in BUILT_IN:
        raise ConfigError(f"the architecture {name!r} is built in. Choose another name")
    fields = config.model_fields if isinstance(config, type) and issubclass(config, Config) else {}
    if "d_sae" not in fields or "architecture" not in fields or fields["architecture"].default != name:
        raise ConfigError(
            f"the configuration of {name!r} must be a subclass of sae.config.Config with `architecture: Literal[{name!r}] = {name!r}` and `d_sae`"
        )
    if not (isinstance(dictionary, type) and issubclass(dictionary, Dictionary)):
        raise ConfigError(f"the dictionary of {name!r} must be a subclass of sae.architectures.base.Dictionary, not {dictionary!r}")
    REGISTERED[name], ARCHITECTURES[name] = config, dictionary


def architecture(name: str) -> type[Dictionary]:
    """The dictionary class of an architecture.

    Raises:
        ConfigError: no architecture of this name is built in, registered or installed.
    """
    if name not in ARCHITECTURES:
        registered(name)
    if name not in ARCHITECTURES:
        raise ConfigError(
            f"the architecture {name!r} is not known here (known: {', '.join(ARCHITECTURES)}). Import the module that calls "
            f"sae.register({name!r}, …) first, or install its package with an entry point of the group {ENTRY_POINTS}"
        )
    return ARCHITECTURES[name]


def build_dictionary(config: SAEConfig, d_in: int, d_out: int | None = None) -> Dictionary:
    """A new dictionary of the architecture that `config` names, a transcoder if it has `d_out`; call `initialize` before training it."""
    return architecture(config.architecture)(config, d_in, d_out)


def dictionary_to_load(config: SAEConfig, d_in: int, d_out: int | None = None) -> Dictionary:
    """A dictionary whose weights hold any values until they are loaded."""
    return architecture(config.architecture)(config, d_in, d_out, drawn=False)


def tensors_of(config: SAEConfig, d_in: int, d_out: int | None = None) -> dict[str, TensorShape]:
    """Data types and shapes of a dictionary's tensors, by name; nothing is allocated."""
    with torch.device("meta"):
        return shapes_of(dictionary_to_load(config, d_in, d_out).state_dict())
