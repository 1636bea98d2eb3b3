"""Dictionary learning on transformer activations: train, measure and read dictionaries, without a cluster.

Example:
    >>> import torch, sae
    >>> vectors = torch.randn(20_000, 16, generator=torch.Generator().manual_seed(0))
    >>> dictionary = sae.train(vectors, sae.TopK(d_sae=64, k=4), batch_size=500)
    >>> dictionary.encode(vectors[:3]).shape
    torch.Size([3, 64])
    >>> sae.measure(dictionary, vectors).l0
    4.0
"""

import importlib
from typing import TYPE_CHECKING, Any

from sae.extras import installation_advice

if TYPE_CHECKING:
    from sae.architectures.config import (
        BatchTopKConfig as BatchTopK,
    )
    from sae.architectures.config import (
        GatedConfig as Gated,
    )
    from sae.architectures.config import (
        JumpReluConfig as JumpReLU,
    )
    from sae.architectures.config import (
        MatryoshkaConfig as Matryoshka,
    )
    from sae.architectures.config import (
        PAnnealingConfig as PAnnealing,
    )
    from sae.architectures.config import (
        ReluAprilConfig as ReLUApril,
    )
    from sae.architectures.config import (
        ReluConfig as ReLU,
    )
    from sae.architectures.config import (
        TiedConfig as Tied,
    )
    from sae.architectures.config import (
        TopKConfig as TopK,
    )
    from sae.architectures.registry import register
    from sae.checkpoint import load_dictionary, save_dictionary
    from sae.evaluation.evaluate import evaluate
    from sae.evaluation.measure import measure
    from sae.interpretation.interpret import interpret
    from sae.report.page import write_report
    from sae.run.run import Run
    from sae.store import Store, write_store
    from sae.store.harvest import harvest
    from sae.subject.model import Subject
    from sae.training.on_vectors import train

_HOMES = {
    "BatchTopK": "sae.architectures.config:BatchTopKConfig",
    "Gated": "sae.architectures.config:GatedConfig",
    "JumpReLU": "sae.architectures.config:JumpReluConfig",
    "Matryoshka": "sae.architectures.config:MatryoshkaConfig",
    "PAnnealing": "sae.architectures.config:PAnnealingConfig",
    "ReLU": "sae.architectures.config:ReluConfig",
    "ReLUApril": "sae.architectures.config:ReluAprilConfig",
    "Run": "sae.run.run:Run",
    "Store": "sae.store:Store",
    "Subject": "sae.subject.model:Subject",
    "Tied": "sae.architectures.config:TiedConfig",
    "TopK": "sae.architectures.config:TopKConfig",
    "evaluate": "sae.evaluation.evaluate:evaluate",
    "harvest": "sae.store.harvest:harvest",
    "interpret": "sae.interpretation.interpret:interpret",
    "load_dictionary": "sae.checkpoint:load_dictionary",
    "measure": "sae.evaluation.measure:measure",
    "register": "sae.architectures.registry:register",
    "save_dictionary": "sae.checkpoint:save_dictionary",
    "train": "sae.training.on_vectors:train",
    "write_report": "sae.report.page:write_report",
    "write_store": "sae.store:write_store",
}

__all__ = [
    "BatchTopK",
    "Gated",
    "JumpReLU",
    "Matryoshka",
    "PAnnealing",
    "ReLU",
    "ReLUApril",
    "Run",
    "Store",
    "Subject",
    "Tied",
    "TopK",
    "__version__",
    "evaluate",
    "harvest",
    "interpret",
    "load_dictionary",
    "measure",
    "register",
    "save_dictionary",
    "train",
    "write_report",
    "write_store",
]


def __getattr__(name: str) -> Any:
    # On demand: importing an error or a config should not wait seconds for torch.
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("monosem")
    if name not in _HOMES:
        raise AttributeError(f"module 'sae' has no attribute {name!r}; it has {', '.join(__all__)}")
    module, _, attribute = _HOMES[name].partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        if advice := installation_advice(error):
            raise ImportError(f"sae.{name}: {advice}", name=error.name) from error
        raise
    globals()[name] = found  # a submodule of the same name, once it is imported, must not hide it
    return found


def __dir__() -> list[str]:
    return __all__
