"""A forward pass that is run once up to a hookpoint, and from there on as often as one likes with something else in its place.

Evaluation asks what a model predicts with one vector or another at the same hookpoint of the same tokens. What lies before the hookpoint
does not change, so the outputs of its modules are kept and handed out again: a hookpoint late in the model costs little more than the rest
of the model. What is kept is one tensor for every module that was finished before the hookpoint, less those inside another such module.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sae.subject.plain_model import ModuleSide

Replace = Callable[[Float[Tensor, "batch sequence d_in"]], Float[Tensor, "batch sequence d_in"]]


class SplicedRuns(Protocol):
    """The clean pass over some tokens, and passes with another activation at one hookpoint."""

    logits: Float[Tensor, "batch sequence d_vocab"]
    """Of the clean pass."""
    activation: Float[Tensor, "batch sequence d_in"]
    """At the hookpoint, in the clean pass."""

    def logits_with(self, replace: Replace) -> Float[Tensor, "batch sequence d_vocab"]:
        """Logits with `replace(activation)` at the hookpoint."""


class BridgeRuns:
    """Every pass from the beginning, for hookpoints that no plain module has."""

    def __init__(self, logits_with: Callable[[Replace], Float[Tensor, "batch sequence d_vocab"]]) -> None:
        def keep(activation: Float[Tensor, "batch sequence d_in"]) -> Float[Tensor, "batch sequence d_in"]:
            self.activation = activation
            return activation

        self.logits_with = logits_with
        self.logits = logits_with(keep)


class ReplayedRuns:
    """Passes of a plain model that begin at one of its modules.

    Args:
        plain: of `sae.subject.plain_model`.
        tokens: what all passes are run on.
        side: where the hookpoint lies.
    """

    def __init__(self, plain: nn.Module, tokens: Int[Tensor, "batch sequence"], side: ModuleSide) -> None:
        self._plain, self._tokens, self._side = plain, tokens, side
        self._before: dict[nn.Module, list[Any]] = {}
        outputs: dict[str, list[Any]] = {}
        seen: list[Tensor] = []

        def keep(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, given: Any, output: Any) -> None:
                if not seen:
                    outputs.setdefault(name, []).append(output)

            return hook

        def reached(activation: Float[Tensor, "batch sequence d_in"]) -> Float[Tensor, "batch sequence d_in"]:
            seen.append(activation)
            return activation

        handles = [module.register_forward_hook(keep(name)) for name, module in plain.named_modules()]
        try:
            self.logits: Tensor = self._run(reached)
        finally:
            for handle in handles:
                handle.remove()
        self.activation = seen[0]
        modules = dict(plain.named_modules())
        self._before = {modules[name]: kept for name, kept in outputs.items() if not any(above in outputs for above in _above(name))}

    def logits_with(self, replace: Replace) -> Float[Tensor, "batch sequence d_vocab"]:
        """Logits with `replace(activation)` at the hookpoint."""
        own = {module: vars(module).get("forward") for module in self._before}
        try:
            for module, outputs in self._before.items():
                module.forward = _handing_out(outputs, module.forward)
            return self._run(replace)
        finally:
            for module, forward in own.items():
                if forward is None:
                    vars(module).pop("forward", None)
                else:
                    module.forward = forward

    @torch.no_grad()
    def _run(self, replace: Replace) -> Float[Tensor, "batch sequence d_vocab"]:
        module = self._plain.get_submodule(self._side.path)
        if self._side.is_input:
            handle = module.register_forward_pre_hook(_input_hook(replace), with_kwargs=True)
        else:
            handle = module.register_forward_hook(_output_hook(replace))
        try:
            logits: Tensor = self._plain(input_ids=self._tokens, use_cache=False).logits
        finally:
            handle.remove()
        return logits


def _above(name: str) -> list[str]:
    """The modules that a module lies in."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def _handing_out(outputs: list[Any], forward: Callable[..., Any]) -> Callable[..., Any]:
    """A forward method that returns what the first calls returned, and computes from then on: a module may be used again later."""
    kept = iter(outputs)
    nothing = object()

    def replay(*given: Any, **named: Any) -> Any:
        output = next(kept, nothing)
        return forward(*given, **named) if output is nothing else output

    return replay


def _replaced(value: Tensor, replace: Replace) -> Tensor:
    return replace(value.flatten(2)).to(value.dtype).reshape(value.shape)


def _input_hook(replace: Replace) -> Callable[..., Any]:
    def hook(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if given:
            return (_replaced(given[0], replace), *given[1:]), named
        return given, named | {"hidden_states": _replaced(named["hidden_states"], replace)}

    return hook


def _output_hook(replace: Replace) -> Callable[..., Any]:
    def hook(module: nn.Module, given: Any, output: Any) -> Any:
        return (_replaced(output[0], replace), *output[1:]) if isinstance(output, tuple) else _replaced(output, replace)

    return hook
