"""The subject model: the transformer under study. With `sae.subject.loading` and `sae.subject.check`, all that knows transformer_lens.

A model is loaded from a local directory or a hub name through TransformerLens' bridge over the Hugging Face implementation with
fused attention. Harvesting stops at the last hookpoint asked for: an exception raised in the hook is the only way to stop a
one-layer model before its unembedding (`stop_at_layer` counts whole layers). Hookpoints that are an input or output of a plain module are
read from the plain model (`sae.subject.plain_model`), after a comparison with the bridge on a few tokens; all others from the bridge.
"""

import contextlib
import difflib
import hashlib
import logging
import re
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae.errors import HookpointError, WidthError
from sae.subject.config import DTYPES, EMBEDDED, EMBEDDED_DIRECTORY, SubjectConfig, load_tokenizer, model_directory
from sae.subject.loading import boot_bridge, check_tokenizer, load_weights, one_line_errors
from sae.subject.plain_model import ModuleSide, ReachedError, locate, plain_copy, run_to
from sae.subject.replay import BridgeRuns, ReplayedRuns, SplicedRuns
from sae.subject.tokenization import SubjectTokenizer

__all__ = ["DTYPES", "EMBEDDED", "EMBEDDED_DIRECTORY", "Subject", "SubjectConfig", "load_tokenizer", "model_directory", "shuffle_weights"]

RESIDUAL_HOOKPOINT = re.compile(
    r"hook_embed|embed\.hook_out|ln_final\.hook_in"
    r"|blocks\.\d+\.(hook_in|hook_out|hook_resid_(pre|mid|post)|hook_mlp_out|hook_attn_out|(mlp|attn)\.hook_out)"
)
OUTPUT_INPUT_HOOKPOINT = re.compile(r"blocks\.(?P<block>\d+)\.(mlp\.(hook_post|out\.hook_in)|(?P<attention>attn\.(hook_z|o\.hook_in)))")
TOLERANCES = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 5e-2}  # of rounding, through many layers; a wrong tensor is off by 1


class Subject:
    """A subject model, ready to run.

    Use `Subject.load`. All methods run without gradients; tokens are int64 on the subject's device.
    """

    def __init__(self, bridge: Any, plain: torch.nn.Module, config: SubjectConfig, tokenizer: SubjectTokenizer, device: str) -> None:
        self._bridge, self._plain = bridge, plain
        self.config, self.tokenizer, self.device = config, tokenizer, device
        self.context_length: int = bridge.cfg.n_ctx
        self.d_vocab: int = bridge.cfg.d_vocab
        self._widths: dict[str, int] = {}
        self._routes: dict[tuple[str, ...], list[ModuleSide] | None] = {}
        self._replayed: dict[str, ModuleSide | None] = {}
        self.digest = _weights_digest(bridge.original_model)

    @classmethod
    def load(cls, config: SubjectConfig | str, device: str = "cpu") -> "Subject":
        """Load a model and its tokenizer.

        Args:
            config: of the model, or just its name on the hub, its directory, or `embedded`.
            device: `cpu` or `cuda`.

        Raises:
            InputError: no such directory, a name the hub does not answer for, an architecture TransformerLens has no adapter for, weights
                that are missing, damaged or not finite, a tokenizer with more tokens than the embedding has rows.
        """
        config = SubjectConfig(model=config) if isinstance(config, str) else config
        name = model_directory(config)
        tokenizer = load_tokenizer(config)
        with one_line_errors(config.model):
            model = load_weights(name, config.model, DTYPES[config.dtype], device)
            check_tokenizer(tokenizer, model.get_input_embeddings().weight.shape[0], config.model)
            if config.shuffle_seed is not None:
                shuffle_weights(model, config.shuffle_seed)
            plain = plain_copy(model)  # the bridge changes the model it is given
            logging.getLogger("transformer_lens").setLevel(logging.ERROR)
            bridge = boot_bridge(name, model, tokenizer, device)
        return cls(bridge, plain, config, tokenizer, device)

    def hookpoints(self) -> list[str]:
        """The names that `activations` knows."""
        return sorted(self._bridge.hook_dict)

    @property
    def num_parameters(self) -> int:
        """Weights of the model, its embeddings included."""
        return sum(parameter.numel() for parameter in self._plain.parameters())

    def check_hookpoint(self, hookpoint: str) -> None:
        """Raise HookpointError, naming the nearest hookpoints, if there is none of this name; aliases are names too."""
        known = self._bridge.hook_dict
        if hookpoint not in known:
            near = difflib.get_close_matches(hookpoint, known, n=5, cutoff=0.3)
            raise HookpointError(f"{self.config.model!r} has no hookpoint {hookpoint!r}; near ones: {', '.join(near) or 'none'}")

    def width(self, hookpoint: str) -> int:
        """`d_in` of a hookpoint.

        Raises:
            HookpointError: there is no such hookpoint (the message lists the near ones), or it does not give one vector a token.
        """
        if hookpoint not in self._widths:
            try:
                self._widths[hookpoint] = self._bridge_activations(self._probe(), [hookpoint])[hookpoint].shape[-1]
            except ValueError as error:  # TransformerLens has hookpoints that only fire when a setting is on
                raise HookpointError(f"{hookpoint!r} of {self.config.model!r} cannot be read: {error}") from None
        return self._widths[hookpoint]

    @torch.no_grad()
    def activations(self, tokens: Int[Tensor, "batch sequence"], hookpoints: list[str]) -> dict[str, Float[Tensor, "batch sequence d_in"]]:
        """Run the model until every hookpoint has been reached, and no further.

        Raises:
            HookpointError: a hookpoint the model does not have.
        """
        names = tuple(hookpoints)
        if names not in self._routes:
            self._routes[names] = self._plain_route(hookpoints)
        route = self._routes[names]
        if route is None:
            return self._bridge_activations(tokens, hookpoints)
        found = run_to(self._plain, tokens, route)
        return {name: _one_vector_a_token(activation, tokens, name) for name, activation in zip(hookpoints, found, strict=True)}

    def _probe(self) -> Int[Tensor, "one sequence"]:
        # Eleven tokens: no model has so many heads, and `[batch, heads, ...]` must not pass for `[batch, sequence, ...]`. All different,
        # since attention over equal tokens gives the same whatever its weights.
        return torch.arange(min(11, self.context_length), device=self.device)[None] % self.d_vocab

    def _plain_route(self, hookpoints: list[str]) -> list[ModuleSide] | None:
        """Where the plain model has these hookpoints, if it gives what the bridge gives for them."""
        for hookpoint in hookpoints:
            self.check_hookpoint(hookpoint)
        sides = [locate(self._bridge, self._plain, hookpoint) for hookpoint in hookpoints]
        route = [side for side in sides if side is not None]
        if not route or len(route) < len(sides):
            return None
        tokens = self._probe()
        expected = self._bridge_activations(tokens, hookpoints)
        try:
            found = run_to(self._plain, tokens, route)
        except (KeyError, TypeError, ValueError, RuntimeError):  # a model that is not run by its tokens alone
            return None
        alike = all(_alike(value, expected[name], TOLERANCES[self.config.dtype]) for name, value in zip(hookpoints, found, strict=True))
        return route if alike else None

    @torch.no_grad()
    def _bridge_activations(self, tokens: Int[Tensor, "batch sequence"], hookpoints: list[str]) -> dict[str, Float[Tensor, "batch sequence d_in"]]:
        for hookpoint in hookpoints:
            self.check_hookpoint(hookpoint)
        found: dict[str, Tensor] = {}

        def keep(name: str) -> Callable[..., None]:
            def hook(activation: Tensor, hook: Any) -> None:
                found[name] = _one_vector_a_token(activation, tokens, name)
                if len(found) == len(hookpoints):
                    raise ReachedError

            return hook

        with contextlib.suppress(ReachedError):
            self._bridge.run_with_hooks(tokens, return_type=None, fwd_hooks=[(name, keep(name)) for name in hookpoints])
        silent = [name for name in hookpoints if name not in found]
        if silent:
            raise HookpointError(f"{', '.join(silent)} of {self.config.model!r} did not fire in a forward pass: choose another hookpoint")
        return {name: found[name] for name in hookpoints}

    @torch.no_grad()
    def logits(self, tokens: Int[Tensor, "batch sequence"]) -> Float[Tensor, "batch sequence d_vocab"]:
        """The model's next-token logits."""
        result: Tensor = self._bridge(tokens, return_type="logits")
        return result

    @torch.no_grad()
    def logits_with(
        self, tokens: Int[Tensor, "batch sequence"], hookpoint: str, replace: Callable[[Float[Tensor, "batch sequence d_in"]], Tensor]
    ) -> Float[Tensor, "batch sequence d_vocab"]:
        """Logits with `replace(activation)` in place of the activation at the hookpoint.

        Raises:
            HookpointError: a hookpoint the model does not have.
        """
        self.check_hookpoint(hookpoint)

        def splice(activation: Tensor, hook: Any) -> Tensor:
            replaced = replace(_one_vector_a_token(activation, tokens, hookpoint))
            return replaced.to(activation.dtype).reshape(activation.shape)

        result: Tensor = self._bridge.run_with_hooks(tokens, return_type="logits", fwd_hooks=[(hookpoint, splice)])
        return result

    def spliced_runs(self, tokens: Int[Tensor, "batch sequence"], hookpoint: str) -> SplicedRuns:
        """The clean pass, and passes with another activation at the hookpoint, which begin there where the model allows it.

        Raises:
            HookpointError: a hookpoint the model does not have.
        """
        if hookpoint not in self._replayed:
            self._replayed[hookpoint] = self._replayed_side(hookpoint)
        side = self._replayed[hookpoint]
        if side is None:
            return BridgeRuns(lambda replace: self.logits_with(tokens, hookpoint, replace))
        return ReplayedRuns(self._plain, tokens, side)

    def _replayed_side(self, hookpoint: str) -> ModuleSide | None:
        """Where the plain model has the hookpoint, if passes that begin there give what the bridge gives, the second as the first."""
        route = self._plain_route([hookpoint])
        if route is None:
            return None
        tokens = self._probe()
        runs = ReplayedRuns(self._plain, tokens, route[0])
        expected = self.logits_with(tokens, hookpoint, torch.zeros_like)
        found = [runs.logits_with(torch.zeros_like), runs.logits_with(torch.zeros_like)]
        agree = all(_alike(logits, expected, TOLERANCES[self.config.dtype]) for logits in found)
        return route[0] if agree and _alike(runs.logits, self.logits(tokens), TOLERANCES[self.config.dtype]) else None

    @torch.no_grad()
    def logit_effects(self, hookpoint: str, directions: Float[Tensor, "n d_in"]) -> Float[Tensor, "n d_vocab"]:
        r"""The direct effect of adding a direction at a hookpoint on the logits, later layers left out.

        `effects = N(directions @ W_out) @ W_U - median`, with `W_out [d_in d_model]` the MLP's (or attention's) output matrix, absent where
        the hookpoint is the residual stream itself or what is added to it, and `W_U [d_model d_vocab]` the unembedding. `N` is the final
        norm made linear: it subtracts the mean over `d_model` (layer norm only) and multiplies by the gain, if any. Its division by the scale of
        the residual stream is left out, so the unit is logits times that scale: comparable within a hookpoint, and the order of tokens
        is not touched. The median over the vocabulary is removed from each direction, since equal shifts of all logits change nothing.

        Reference: Bricken et al. 2023, "Towards Monosemanticity", feature logit weights.

        Raises:
            HookpointError: a hookpoint the model does not have, or one that does not write into the residual stream.
            WidthError: directions of another width than the hookpoint.
        """
        if directions.shape[-1] != self.width(hookpoint):
            raise WidthError(f"directions have width {directions.shape[-1]}, {hookpoint!r} has {self.width(hookpoint)}: give directions of it")
        written = self._write(hookpoint, directions.to(self.device, DTYPES[self.config.dtype])).float()
        unembedding = self._bridge.unembed.W_U.float()
        if written.shape[-1] != unembedding.shape[0]:  # OPT-350m projects in between
            raise HookpointError(f"logit effects are not defined for {self.config.model!r}: its unembedding does not read the residual stream")
        effects: Tensor = self._normed(written) @ unembedding
        return effects - effects.median(-1, keepdim=True).values

    def _normed(self, written: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_model"]:
        """Apply the final norm to directions, its division by a scale left out; a model may have no such norm, or one without gain."""
        norm = getattr(self._bridge, "ln_final", None)
        if norm is None:
            return written
        if not norm.uses_rms_norm:
            written = written - written.mean(-1, keepdim=True)
        gain = getattr(norm, "weight", None)
        return written if gain is None else written * (gain.float() + (1.0 if norm.uses_weight_offset else 0.0))

    def _write(self, hookpoint: str, directions: Tensor) -> Tensor:
        """Compute what directions at a hookpoint add to the residual stream."""
        if RESIDUAL_HOOKPOINT.fullmatch(hookpoint):
            return directions
        matched = OUTPUT_INPUT_HOOKPOINT.fullmatch(hookpoint)
        block = self._bridge.blocks[int(matched["block"])] if matched else None
        name = "attn.o" if matched and matched["attention"] else "mlp.out"
        # Where the block normalises what it adds (Gemma 2), the effect depends on the token and no single matrix gives it.
        if block is None or name not in {path for path, _ in block.named_modules(remove_duplicate=False)} or hasattr(block, "ln2_post"):
            raise HookpointError(
                f"logit effects are not defined at {hookpoint!r} of {self.config.model!r}: expected an MLP's `hook_post`, an attention's "
                "`hook_z`, or a residual stream hookpoint (`hook_resid_*`, `hook_mlp_out`, `hook_attn_out`)"
            )
        matrix = block.get_submodule(name)
        return matrix(directions) - matrix(torch.zeros_like(directions[:1]))  # the difference drops the bias, whatever the layout


@torch.no_grad()
def shuffle_weights(model: torch.nn.Module, seed: int) -> None:
    """Shuffle the entries of each weight matrix (embeddings included) among themselves; vectors (biases, gains) stay.

    Reference: Towards Monosemanticity, the control with a randomised transformer: the same weight statistics, nothing learned.
    """
    generator = torch.Generator().manual_seed(seed)
    for _, parameter in sorted(model.named_parameters()):
        if parameter.ndim >= 2:
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter.reshape(-1)[order].view(parameter.shape))


def _one_vector_a_token(activation: Tensor, tokens: Tensor, hookpoint: str) -> Tensor:
    """The activation as `[batch, sequence, d_in]`, its heads side by side."""
    if activation.ndim < 3 or activation.shape[:2] != tokens.shape:
        raise HookpointError(f"{hookpoint!r} gives {list(activation.shape)} for tokens {list(tokens.shape)}, expected one vector a token")
    return activation.flatten(2)


def _alike(found: Tensor, expected: Float[Tensor, "one sequence d_in"], tolerance: float) -> bool:
    if found.ndim < 3 or found.flatten(2).shape != expected.shape:
        return False
    difference = (found.flatten(2).double() - expected.double()).norm()
    return bool(difference <= tolerance * expected.double().norm())


def _weights_digest(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
