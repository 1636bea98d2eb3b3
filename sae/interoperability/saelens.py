"""The layout of SAELens: `cfg.json` and `sae_weights.safetensors`, as its `SAE.load_from_disk` and `save_inference_model` have it.

Its inference classes are `standard` (ReLU), `topk`, `jumprelu`, `gated`, `transcoder` (ReLU) and `jumprelu_transcoder`; BatchTopK and
Matryoshka dictionaries are saved there as `jumprelu` with their threshold, and so are ours. Release 6 is written; all releases are read
(`saelens_older`). Read from: sae_lens 6.54.12, `saes/*.py` and `loading/pretrained_sae_loaders.py`.
"""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from sae.errors import InputError
from sae.interoperability.hookpoint_names import in_transformer_lens
from sae.interoperability.imported_origin import Provenance, Taken, known, taken_if
from sae.interoperability.raw_form import VECTORS, RawForm, Rule
from sae.interoperability.reading import (
    PRECISIONS,
    in_precision,
    read_config,
    read_safetensors,
    refuse_unless,
    refuse_unless_equal,
    require,
    shown,
    truth,
    whole_number,
)
from sae.interoperability.saelens_keys import MODEL_ARGUMENTS, ORIGIN, ORIGIN_BOUND, VERSION_6
from sae.interoperability.saelens_older import as_version_6, is_version_6
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
_SCALES = ("scaling_factor", "finetuning_scaling_factor")
_TRANSFORMER_LENS_CLASSES = (None, "HookedTransformer", "HookedSAETransformer", "TransformerBridge", "SAETransformerBridge")


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
        "hook_name_out": origin.get("target_hookpoint"),
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
    """A dictionary that SAELens wrote, in any of its releases.

    Raises:
        InputError: it is none, is damaged, or does something to its input or output that ours do not.
    """
    where = place.path(CONFIG_KEY)
    config = read_config(place, CONFIG_KEY)
    _refuse_unless_known(config.get("architecture", "standard"), where)
    config, notes = (config, VERSION_6.check(config, where)) if is_version_6(config, where) else as_version_6(config, where)
    provenance = _provenance(config, notes, where)
    rule, is_transcoder = _rule(config, where)
    applies = truth(config.get("apply_b_dec_to_input", not is_transcoder), where, "apply_b_dec_to_input")
    refuse_unless(
        not (is_transcoder and applies), f"{where}: apply_b_dec_to_input is true, but a transcoder's b_dec is of its output. Set it to false"
    )
    tensors = _tensors(place, config, {*_KEYS, *VECTORS[rule]})
    form = RawForm(
        rule=rule,
        **{name: tensors[name] for name in _KEYS},
        vectors={name: tensors[name] for name in VECTORS[rule]},
        subtracts_b_dec=applies,
        is_transcoder=is_transcoder,
        k=whole_number(config.get("k"), where, "k") if rule == "topk" else None,
        provenance=provenance,
    ).checked(place.path(WEIGHTS_KEY))
    for name, found in (("d_in", form.d_in), ("d_sae", form.d_sae), *([("d_out", form.d_out)] if "d_out" in config else [])):
        refuse_unless_equal(config.get(name), found, where, name)
    return _with_norms_folded(form) if truth(config.get("rescale_acts_by_decoder_norm", False), where, "rescale_acts_by_decoder_norm") else form


def _refuse_unless_known(architecture: Any, where: str) -> None:
    refuse_unless(
        isinstance(architecture, str) and architecture in _ARCHITECTURES,
        f"{where}: the architecture {shown(architecture)} has no counterpart here; {', '.join(_ARCHITECTURES)} have. Save a training "
        "checkpoint with `save_inference_model` first",
    )


def _rule(config: dict[str, Any], where: str) -> tuple[Rule, bool]:
    architecture = config.get("architecture", "standard")
    rule, is_transcoder = _ARCHITECTURES[architecture]
    for key in ("k", "rescale_acts_by_decoder_norm"):
        refuse_unless(
            rule == "topk" or not config.get(key),
            f"{where}: {key} is {shown(config.get(key))}, but {architecture!r} does not use it. Correct one of the two",
        )
    return rule, is_transcoder


def _tensors(place: Place, config: dict[str, Any], names: set[str]) -> dict[str, Float[Tensor, "..."]]:
    where = place.path(CONFIG_KEY)
    precision = str(config.get("dtype", "float32")).removeprefix("torch.")
    refuse_unless(
        precision in PRECISIONS, f"{where}: dtype is {shown(config.get('dtype'))}, allowed: {', '.join(PRECISIONS)}. Correct the configuration"
    )
    sizes = [config.get("d_in"), config.get("d_sae"), *([config["d_out"]] if "d_out" in config else [])]
    found = in_precision(read_safetensors(place, WEIGHTS_KEY, names, sizes, _SCALES), PRECISIONS[precision])
    return _with_scale_folded(found, config.get("finetuning_scaling_factor"), place)


def _with_scale_folded(tensors: dict[str, Float[Tensor, "..."]], is_used: Any, place: Place) -> dict[str, Float[Tensor, "..."]]:
    """Without the factors that releases up to 5 multiply features with before they decode them; 1.0 always had them, mostly as ones."""
    where = place.path(WEIGHTS_KEY)
    scales = [tensors.pop(name) for name in _SCALES if name in tensors]
    refuse_unless(len(scales) < 2, f"{where} holds both {' and '.join(_SCALES)}. Keep the one that is used")
    if not scales or torch.allclose(scales[0], torch.ones_like(scales[0])):
        return tensors
    refuse_unless(
        is_used is None or truth(is_used, place.path(CONFIG_KEY), "finetuning_scaling_factor"),
        f"{where} holds scaling factors other than 1, but finetuning_scaling_factor is false. Set it to true if they are to be used",
    )
    fits = scales[0].shape == tensors["W_dec"].shape[:1]
    refuse_unless(fits, f"{where}: the scaling factor is {list(scales[0].shape)} and W_dec {list(tensors['W_dec'].shape)}: damaged")
    return tensors | {"W_dec": tensors["W_dec"] * scales[0][:, None]}


def _provenance(config: dict[str, Any], notes: dict[str, Any], where: str) -> Provenance:
    metadata = require(config.get("metadata") or {}, dict, where, "metadata")
    described = {key: value for key, value in config.items() if key in ORIGIN} | metadata
    for key in ORIGIN_BOUND.keys() & metadata.keys():
        VERSION_6.check({key: metadata[key]}, f"{where}, metadata")
    processing = require(described.get("model_from_pretrained_kwargs") or {}, dict, where, "model_from_pretrained_kwargs")
    notes = notes | MODEL_ARGUMENTS.check(processing, f"{where}, model_from_pretrained_kwargs")
    notes |= {key: value for key, value in metadata.items() if key not in ORIGIN | ORIGIN_BOUND.keys() and value not in (None, "", [], {})}
    taken, unclear = {}, {}
    for name, key in (("hookpoint", "hook_name"), ("target_hookpoint", "hook_name_out")):
        if isinstance(found := described.get(key), str) and found:
            hookpoint = _hookpoint(found, described)
            if hookpoint:
                taken[name] = Taken(hookpoint, key)
            else:
                unclear[name] = f"{found[:60]!r} ({key}) is not a name of TransformerLens"
    taken |= known(
        subject=taken_if(str, described.get("model_name"), "model_name"),
        context_length=taken_if(int, described.get("context_size"), "context_size"),
    )
    return Provenance(described.get("sae_lens_version"), taken, unclear, notes)


def _hookpoint(found: str, described: dict[str, Any]) -> str | None:
    layer = described.get("hook_layer")
    if isinstance(layer, int):
        found = found.replace("{layer}", str(layer))
    if described.get("model_class_name") in _TRANSFORMER_LENS_CLASSES and "{" not in found:
        return found
    return in_transformer_lens(found, None, str(described.get("model_name")))


def _with_norms_folded(form: RawForm) -> RawForm:
    # There, z is multiplied by its direction's norm before the k are chosen, and divided by it before decoding.
    norms: Shaped[Tensor, " d_sae"] = torch.linalg.vector_norm(form.W_dec, dim=1).clamp_min(1e-8)
    return replace(form, W_enc=form.W_enc * norms, W_dec=form.W_dec / norms[:, None], vectors={"b_enc": form.vectors["b_enc"] * norms})
