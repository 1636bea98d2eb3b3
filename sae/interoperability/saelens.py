"""The layout of SAELens 6: `cfg.json` and `sae_weights.safetensors`, as its `SAE.load_from_disk` and `save_inference_model` have it.

Its inference classes are `standard` (ReLU), `topk`, `jumprelu`, `gated`, `transcoder` (ReLU) and `jumprelu_transcoder`; BatchTopK and
Matryoshka dictionaries are saved there as `jumprelu` with their threshold, and so are ours. Read from: sae_lens 6.54.12, `saes/*.py`
and `loading/pretrained_sae_loaders.py`.
"""

from typing import Any

import torch

from sae.errors import InputError
from sae.interoperability.raw_form import VECTORS, RawForm, Rule
from sae.interoperability.reading import number, read_safetensors, refuse_unless, require, whole_number
from sae.storage import Place

NAME = "SAELens"
CONFIG_KEY = "cfg.json"
WEIGHTS_KEY = "sae_weights.safetensors"
VERSION = "6.54.12"  # without a version ≥ 6 its loader takes the configuration for one of the older layout
# Each with whether it is a transcoder.
_ARCHITECTURES: dict[str, tuple[Rule, bool]] = {
    "standard": ("relu", False),
    "topk": ("topk", False),
    "jumprelu": ("jumprelu", False),
    "gated": ("gated", False),
    "transcoder": ("relu", True),
    "jumprelu_transcoder": ("jumprelu", True),
}
_KEYS = {"W_enc", "W_dec", "b_dec"}


def write(form: RawForm, origin: dict[str, Any]) -> dict[str, Any]:
    """The two files, weights first; `origin` fills the metadata that SAELens uses to attach a dictionary to a model.

    Raises:
        InputError: SAELens has no such transcoder.
    """
    architecture = next((name for name, kind in _ARCHITECTURES.items() if kind == (form.rule, form.is_transcoder)), None)
    if architecture is None:
        raise InputError(f"SAELens has no transcoder whose features follow the {form.rule} rule: only relu and jumprelu transcoders can be exported")
    hookpoint = origin.get("hookpoint")
    metadata = {
        "sae_lens_version": VERSION,
        "sae_lens_training_version": None,
        "model_name": origin.get("subject"),
        "hook_name": hookpoint,
        "context_size": origin.get("context_length"),
        "prepend_bos": True,
        "exported_by": "monosem",
    }
    config = {
        "architecture": architecture,
        "d_in": form.d_in,
        "d_sae": form.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": form.subtracts_b_dec,
        "normalize_activations": "none",
        # Heads come as [… n_heads d_head] from its hook_z and go side by side into ours.
        "reshape_activations": "hook_z" if hookpoint and hookpoint.endswith("hook_z") else "none",
        "metadata": {key: value for key, value in metadata.items() if value is not None},
    }
    if form.is_transcoder:
        config["d_out"] = form.d_out
    if form.rule == "topk":
        config |= {"k": form.k, "rescale_acts_by_decoder_norm": False}
    return {WEIGHTS_KEY: {"W_enc": form.W_enc, "W_dec": form.W_dec, "b_dec": form.b_dec, **form.vectors}, CONFIG_KEY: config}


def read(place: Place) -> RawForm:
    """A dictionary that SAELens wrote.

    Raises:
        InputError: it is none, is damaged, or does something to its input or output that ours do not.
    """
    where = place.path(CONFIG_KEY)
    config = require(place.get_json(CONFIG_KEY), dict, where, "the file")
    metadata = require(config.get("metadata") or {}, dict, where, "metadata")
    architecture = config.get("architecture", "standard")
    refuse_unless(
        architecture in _ARCHITECTURES,
        f"{where}: the architecture {str(architecture)[:40]!r} has no counterpart here; {', '.join(_ARCHITECTURES)} have (save a training "
        "checkpoint with `save_inference_model` first)",
    )
    normalization = config.get("normalize_activations", "none")
    refuse_unless(
        normalization in ("none", None),
        f"{where}: normalize_activations is {str(normalization)[:40]!r}, but the file does not hold what it does to activations: fold it into the "
        "weights in SAELens (`fold_activation_norm_scaling_factor`) and save again",
    )
    refuse_unless(not config.get("finetuning_scaling_factor"), f"{where}: finetuning_scaling_factor scales features apart: fold it in and save again")
    rule, is_transcoder = _ARCHITECTURES[architecture]
    tensors = read_safetensors(place, WEIGHTS_KEY, _KEYS | set(VECTORS[rule]))
    form = RawForm(
        rule=rule,
        **{name: tensors[name] for name in _KEYS},
        vectors={name: tensors[name] for name in VECTORS[rule]},
        subtracts_b_dec=not is_transcoder and bool(number(config.get("apply_b_dec_to_input", True), where, "apply_b_dec_to_input")),
        is_transcoder=is_transcoder,
        k=whole_number(config.get("k"), where, "k") if rule == "topk" else None,
        notes={"hookpoint": metadata.get("hook_name"), "subject": metadata.get("model_name"), "context_length": metadata.get("context_size")},
    ).checked(place.path(WEIGHTS_KEY))
    for name, found in (("d_in", form.d_in), ("d_sae", form.d_sae)):
        if config.get(name) != found:
            raise InputError(f"{where}: {name} is {config.get(name)!r}, but the weights have {found}: the two files do not belong together")
    return _with_norms_folded(form) if rule == "topk" and config.get("rescale_acts_by_decoder_norm") else form


def _with_norms_folded(form: RawForm) -> RawForm:
    # There, z is multiplied by its direction's norm before the k are chosen, and divided by it before decoding.
    norms = torch.linalg.vector_norm(form.W_dec, dim=1).clamp_min(1e-8)
    return RawForm(
        rule=form.rule,
        W_enc=form.W_enc * norms,
        W_dec=form.W_dec / norms[:, None],
        b_dec=form.b_dec,
        vectors={"b_enc": form.vectors["b_enc"] * norms},
        subtracts_b_dec=form.subtracts_b_dec,
        k=form.k,
        notes=form.notes,
    )
