"""Sizes of a subject model from its own configuration, before its weights are loaded. A size that is not known is 1: estimates are lower bounds."""

import os
from pathlib import Path
from typing import Any

from sae.errors import InputError
from sae.storage import parse_json
from sae.subject.model import EMBEDDED, EMBEDDED_DIRECTORY

MAX_CONFIGURATION_BYTES = 2**20
_RESIDUAL = ("resid", "mlp", "hook_in", "hook_out", "embed", "ln")
_NEURONS = ("mlp.hook_pre", "mlp.hook_post", "mlp.in.hook_out", "mlp.gate.hook_out", "mlp.out.hook_in")
_QUERIES = ("attn.hook_q", "attn.hook_z", "attn.q.hook_out", "attn.o.hook_in")
_KEYS = ("attn.hook_k", "attn.hook_v", "attn.k.hook_out", "attn.v.hook_out")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


def model_configuration(model: str) -> dict[str, Any]:
    """The `config.json` of a local model; empty where there is none, which the stage that loads the model will say."""
    directory = EMBEDDED_DIRECTORY if model == EMBEDDED else Path(os.path.expanduser(model))
    path = directory / "config.json"
    try:
        if not path.is_file() or path.stat().st_size > MAX_CONFIGURATION_BYTES:
            return {}
        found = parse_json(path.read_bytes(), str(path))
    except (OSError, InputError):
        return {}
    text = found.get("text_config", found) if isinstance(found, dict) else {}
    return text if isinstance(text, dict) else {}


def vocabulary_size(found: dict[str, Any]) -> int:
    """Rows of the embedding."""
    return _size(found, "vocab_size") or 1


def hookpoint_width(found: dict[str, Any], hookpoint: str) -> int:
    """Least width of the activations at a hookpoint of a model with this configuration."""
    hidden = _size(found, "hidden_size", "n_embd", "d_model")
    if hidden is None:
        return 1
    heads = _size(found, "num_attention_heads", "n_head", "num_heads") or 1
    head = _size(found, "head_dim") or max(1, hidden // heads)
    name = hookpoint.split(".", 2)[-1] if hookpoint.startswith("blocks.") else hookpoint
    if name in _NEURONS:
        return _neurons(found, hidden)
    if name in _QUERIES:
        return heads * head
    if name in _KEYS:
        return (_size(found, "num_key_value_heads") or heads) * head
    if name.endswith("hook_scale") or not any(part in name for part in _RESIDUAL):
        return 1
    return min(hidden, vocabulary_size(found)) if "unembed" in name else hidden


def _neurons(found: dict[str, Any], hidden: int) -> int:
    neurons = _size(found, "intermediate_size", "n_inner", "ffn_dim", "d_ff") or (4 * hidden if "n_embd" in found else hidden)
    is_mixture = any(found.get(key) for key in _EXPERTS)  # its `mlp.hook_post` is its output, not the neurons of an expert
    return min(hidden, neurons) if is_mixture else neurons


def _size(found: dict[str, Any], *names: str) -> int | None:
    values = [found.get(name) for name in names]
    return next((value for value in values if type(value) is int and 0 < value < 2**31), None)
