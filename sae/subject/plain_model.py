"""The Hugging Face model beneath TransformerLens' bridge, run on its own: the same weights, without what a bridge adds to each module.

A bridge wraps every module, splits fused matrices and shows what lies between; on a small model that costs a third of the time.
Harvesting wants none of it. So the model is copied module by module before it is wrapped (the copy shares every weight), and a hookpoint
that is the input or the output of one of its modules is read there.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn


class ReachedError(Exception):
    """Every hookpoint was reached; the rest of the forward pass is not wanted."""


@dataclass(frozen=True)
class ModuleSide:
    """Where a hookpoint lies in the plain model."""

    path: str
    """Of the module."""
    is_input: bool
    """Its first input, or (the first of) its output."""


def plain_copy(model: nn.Module) -> nn.Module:
    """A copy of the modules that shares every parameter and buffer."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]})


def locate(bridge: Any, plain: nn.Module, hookpoint: str) -> ModuleSide | None:
    """Find the side of the plain module that a hookpoint of the bridge is; None where it is something else (attention scores, split heads)."""
    point = bridge.hook_dict[hookpoint]
    component = next((module for module in bridge.modules() if point in (getattr(module, "hook_in", None), getattr(module, "hook_out", None))), None)
    original = getattr(component, "original_component", None)
    wrapped = bridge.original_model.named_modules(remove_duplicate=False)
    paths = [path.replace("_original_component.", "").removesuffix("._original_component") for path, module in wrapped if module is original]
    known = dict(plain.named_modules())
    path = next((path for path in paths if type(known.get(path)) is type(original)), None)
    return None if path is None or original is None else ModuleSide(path, is_input=point is getattr(component, "hook_in", None))


def run_to(plain: nn.Module, tokens: Int[Tensor, "batch sequence"], sides: list[ModuleSide]) -> list[Float[Tensor, "batch sequence *_"]]:
    """Run the plain model until every side was reached, and no further.

    Raises:
        KeyError: one was not reached.
    """
    found: dict[ModuleSide, Tensor] = {}
    wanted = dict.fromkeys(sides)  # in order, each once

    def keep(side: ModuleSide, value: Any) -> None:
        found[side] = value[0] if isinstance(value, tuple) else value
        if len(found) == len(wanted):
            raise ReachedError

    def hook_of(side: ModuleSide) -> Callable[..., None]:
        if side.is_input:
            return lambda module, given, named: keep(side, given[0] if given else named["hidden_states"])
        return lambda module, given, output: keep(side, output)

    handles = []
    for side in wanted:
        module = plain.get_submodule(side.path)
        register = module.register_forward_pre_hook if side.is_input else module.register_forward_hook
        handles.append(register(hook_of(side), **({"with_kwargs": True} if side.is_input else {})))
    try:
        plain(input_ids=tokens, use_cache=False)
    except ReachedError:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return [found[side] for side in sides]
