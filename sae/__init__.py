"""The library: mathematics, data contract and measurement, without Ray.

Example:
    >>> import sae
    >>> sorted(sae.__all__)
    ['Store', 'Subject', 'load_dictionary']
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sae.checkpoint import load_dictionary
    from sae.store.reader import Store
    from sae.subject import Subject

__all__ = ["Store", "Subject", "load_dictionary"]

_HOMES = {"load_dictionary": "sae.checkpoint", "Store": "sae.store.reader", "Subject": "sae.subject"}


def __getattr__(name: str) -> Any:
    # On demand: importing an error or a config should not wait seconds for torch.
    if name not in _HOMES:
        raise AttributeError(f"module 'sae' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOMES[name]), name)
