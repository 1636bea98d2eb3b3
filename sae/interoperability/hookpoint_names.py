"""Other libraries' names of activations in TransformerLens' terms, where they can mean one thing only.

The output of a whole block is `hook_resid_post` in every model. The output of an MLP or attention module is `hook_mlp_out` or `hook_attn_out`
only where the block adds it to the residual stream as it is: Gemma 2 and its like normalise it first. So those names are translated for the
families listed here, and for no other.
"""

import re

TRANSFORMER_LENS = re.compile(r"(?:blocks\.\d+\.|hook_|embed\.|pos_embed\.|ln_final\.|unembed\.).+")
PLAIN_BLOCKS = re.compile(r"(?:^|/)(?:distil)?(?:gpt2|gpt-2|pythia|gpt-neo|gpt-j|llama|meta-llama|tinyllama|mistral|qwen|smollm|opt-)", re.I)
_BLOCK = re.compile(r"(?:(?:model|transformer|gpt_neox)\.)*(?:layers|h)[._](?P<layer>\d+)(?:\.(?P<module>mlp|self_attn|attn|attention))?")
_NAMED = re.compile(r"(?:(?P<residual>resid_(?:pre|mid|post))|(?P<module>mlp|attn)_out)(?:_layer_?(?P<layer>\d+))?")


def in_transformer_lens(name: str, layer: int | None, model: str | None) -> str | None:
    """The hookpoint that `name` stands for, or None where that is not certain.

    Args:
        name: in the other library, e.g. `layers.3.mlp`, `resid_post_layer_3`, `mlp_out`.
        layer: number of the block, where the name does not hold it.
        model: name of the model, for outputs of modules.
    """
    if TRANSFORMER_LENS.fullmatch(name):
        return name
    match = _NAMED.fullmatch(name) or _BLOCK.fullmatch(name)
    if match is None:
        return None
    parts = match.groupdict()
    block = int(parts["layer"]) if parts["layer"] else layer
    if block is None or (layer is not None and block != layer):
        return None
    if parts["module"]:
        kind = "mlp" if parts["module"] == "mlp" else "attn"
        return f"blocks.{block}.hook_{kind}_out" if model and PLAIN_BLOCKS.search(model) else None
    return f"blocks.{block}.hook_{parts.get('residual') or 'resid_post'}"
