"""A subject model described from its configuration, tokenizer and file headers: no weight is read and no worker is started."""

import difflib
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch._subclasses.fake_tensor import FakeTensorMode

from sae.errors import HookpointError, InputError
from sae.subject.loading import ATTENTION, boot_bridge, check_tokenizer, load_weights, one_line_errors
from sae.subject.model import DTYPES, SubjectConfig, load_tokenizer, model_directory
from sae.subject.tokenization import SubjectTokenizer

_BLOCK = re.compile(r"blocks\.(\d+)\.")
_NOISY = ("torch._subclasses.fake_tensor", "transformer_lens")


@dataclass(frozen=True)
class SubjectDescription:
    """A model, as far as it can be described without its weights.

    Attributes:
        model: its name or directory.
        layers: number of blocks.
        d_model: width of the residual stream.
        context_length: tokens of the longest sequence that it takes.
        d_vocab: rows of its embedding.
        hookpoints: names that `Subject.activations` will know; empty where they are only known once the weights are loaded.
        aliases: for each of these names the first that stands for the same activation.
    """

    model: str
    layers: int
    d_model: int
    context_length: int
    d_vocab: int
    hookpoints: tuple[str, ...]
    aliases: dict[str, str]


def check_subject(config: SubjectConfig, hookpoints: Sequence[str] = (), context_length: int | None = None) -> SubjectDescription:
    """Describe a subject model, and refuse what its weights would only show later.

    Args:
        config: the model; of a name of the hub, configuration and tokenizer are fetched.
        hookpoints: names that it must have.
        context_length: tokens that it must take at once.

    Raises:
        InputError: files that are missing, damaged or do not fit each other; an architecture that is not supported; too long a context.
        HookpointError: it has no such hookpoint.
    """
    directory = model_directory(config)
    tokenizer = load_tokenizer(config)
    with one_line_errors(config.model):
        if os.path.isdir(directory):
            load_weights(directory, config.model, DTYPES[config.dtype], "meta")
        description = _describe(directory, config.model, tokenizer)
    check_tokenizer(tokenizer, description.d_vocab, config.model)
    for hookpoint in hookpoints:
        _check_hookpoint(description, hookpoint)
    _refuse_twice(description, hookpoints)
    if context_length is not None and context_length > description.context_length:
        raise InputError(
            f"corpus.context_length is {context_length}, {config.model!r} takes at most {description.context_length} tokens. "
            "Set a smaller corpus.context_length"
        )
    return description


def _describe(directory: str, model: str, tokenizer: SubjectTokenizer) -> SubjectDescription:
    from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES
    from transformer_lens.model_bridge.sources._hf_format import determine_architecture_from_hf_config
    from transformers import AutoConfig, AutoModelForCausalLM

    found = AutoConfig.from_pretrained(directory, trust_remote_code=False)
    architecture = determine_architecture_from_hf_config(found)
    if architecture not in SUPPORTED_ARCHITECTURES:
        raise InputError(f"{model!r} is a {architecture}, which TransformerLens has no adapter for. Choose another model")
    levels = {name: logging.getLogger(name).level for name in _NOISY}
    try:
        for name in _NOISY:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        with FakeTensorMode(allow_non_fake_inputs=True):  # tensors with shapes and without memory
            loaded = AutoModelForCausalLM.from_config(found, attn_implementation=ATTENTION, trust_remote_code=False).eval()
            rows = loaded.get_input_embeddings().weight.shape[0]
            bridge = boot_bridge(directory, loaded, tokenizer, "cpu")
    except RuntimeError:  # a model or an adapter that looks at values
        return _from_config(found.get_text_config(), model)
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
    return SubjectDescription(
        model, bridge.cfg.n_layers, bridge.cfg.d_model, bridge.cfg.n_ctx, rows, tuple(sorted(bridge.hook_dict)), _aliases(bridge.hook_dict)
    )


def _from_config(text: object, model: str) -> SubjectDescription:
    names = ("num_hidden_layers", "hidden_size", "max_position_embeddings", "vocab_size")
    layers, width, length, rows = (int(getattr(text, name, 0) or 0) for name in names)
    return SubjectDescription(model, layers or 2**31, width, length or 2**31, rows or 2**31, (), {})  # what is not known refuses nothing


def _aliases(hooks: dict[str, object]) -> dict[str, str]:
    first: dict[int, str] = {}
    return {name: first.setdefault(id(hooks[name]), name) for name in sorted(hooks)}


def _refuse_twice(description: SubjectDescription, hookpoints: Sequence[str]) -> None:
    known: dict[str, str] = {}
    for hookpoint in hookpoints:
        other = known.setdefault(description.aliases.get(hookpoint, hookpoint), hookpoint)
        if other != hookpoint:
            raise HookpointError(f"{other!r} and {hookpoint!r} are two names of one hookpoint. Keep one of them in harvest.hookpoints")


def _check_hookpoint(description: SubjectDescription, hookpoint: str) -> None:
    block = _BLOCK.match(hookpoint)
    if block and int(block[1]) >= description.layers:
        raise HookpointError(
            f"{description.model!r} has no hookpoint {hookpoint!r}: its blocks are 0 to {description.layers - 1}. Set harvest.hookpoints"
        )
    if description.hookpoints and hookpoint not in description.hookpoints:
        near = difflib.get_close_matches(hookpoint, description.hookpoints, n=5, cutoff=0.3)
        raise HookpointError(f"{description.model!r} has no hookpoint {hookpoint!r}; near ones: {', '.join(near) or 'none'}")
