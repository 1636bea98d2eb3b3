"""The layout of dictionary_learning: `ae.pt` and `config.json`, as its `utils.load_dictionary` has it.

Features are those of `load_dictionary`: it rescales those of `AutoEncoder` to directions of unit norm, so ReLU dictionaries, whose directions
have another norm on raw activations, are written as `AutoEncoderNew`. Read from: dictionary_learning 0.1.0, `dictionary.py`, `utils.py`,
`buffer.py`, `training.py`, `trainers/*.py`.
"""

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from sae.errors import InputError
from sae.interoperability.configuration_keys import Bound, KeyList, names
from sae.interoperability.hookpoint_names import in_transformer_lens
from sae.interoperability.imported_origin import Provenance, Taken, known, taken_if
from sae.interoperability.raw_form import RawForm, Rule
from sae.interoperability.reading import (
    in_precision,
    read_config,
    read_weights,
    refuse_other_names,
    refuse_unless,
    refuse_unless_equal,
    require,
    shown,
    whole_number,
)
from sae.interoperability.tensor_archive import tensors_of_archive
from sae.storage import Place

NAME = "dictionary_learning"
CONFIG_KEY = "config.json"
WEIGHTS_KEY = "ae.pt"
Tensors = dict[str, Shaped[Tensor, "..."]]
KEYS = KeyList(
    honoured=frozenset({"dict_class", "activation_dim", "dict_size", "k", "layer", "lm_name", "submodule_name"}),
    without_effect=names(
        """
        trainer_class lr steps seed device wandb_name warmup_steps sparsity_warmup_steps decay_start resample_steps l1_penalty auxk_alpha
        threshold_beta threshold_start_step top_k_aux group_fractions group_weights group_sizes bandwidth sparsity_penalty target_l0
        sparsity_function p_start p_end anneal_start sparsity_queue_length n_sparsity_updates
        """
    ),
    bound={"norm_factor": Bound((1, None), "Whether the biases contain it is not known. Remove the key if they do, as in a finished training")},
)


def write(form: RawForm, origin: dict[str, Any]) -> dict[str, Any]:
    """The two files, weights first. `lm_name` and `submodule_name` of the configuration say what the dictionary is of.

    Raises:
        InputError: the dictionary is a transcoder.
    """
    if form.is_transcoder:
        raise InputError("dictionary_learning has no transcoders: export to saelens instead")
    dict_class, tensors = _WRITERS[form.rule](form)
    trainer: dict[str, Any] = {
        "trainer_class": "monosem",
        "dict_class": dict_class,
        "activation_dim": form.d_in,
        "dict_size": form.d_sae,
        "layer": origin.get("layer"),
        "lm_name": origin.get("subject"),
        "submodule_name": origin.get("hookpoint"),
    }
    if form.k is not None:
        trainer["k"] = form.k
    buffer = io.BytesIO()
    torch.save({name: tensor.contiguous() for name, tensor in tensors.items()}, buffer)
    return {WEIGHTS_KEY: buffer.getvalue(), CONFIG_KEY: {"trainer": trainer, "buffer": {"ctx_len": origin.get("context_length")}}}


def read(place: Place) -> RawForm:
    """A dictionary that dictionary_learning wrote.

    Raises:
        InputError: it is none, is damaged, holds more than tensors, or is of a class that has no counterpart here.
    """
    where = place.path(CONFIG_KEY)
    config = read_config(place, CONFIG_KEY)
    trainer = require(config.get("trainer"), dict, where, "trainer")
    dict_class = trainer.get("dict_class")
    refuse_unless(
        isinstance(dict_class, str) and dict_class in _READERS,
        f"{where}: dict_class {shown(dict_class)} has no counterpart here; {', '.join(_READERS)} have. Import another dictionary",
    )
    KEYS.check(trainer, f"{where}, trainer")
    form = _READERS[str(dict_class)](_tensors(place, trainer, str(dict_class)), _provenance(config, trainer))
    form = form.checked(place.path(WEIGHTS_KEY))
    for name, found in (("activation_dim", form.d_in), ("dict_size", form.d_sae)):
        if name in trainer:
            refuse_unless_equal(trainer[name], found, where, name)
    return form


def _tensors(place: Place, trainer: dict[str, Any], dict_class: str) -> Tensors:
    where = place.path(WEIGHTS_KEY)
    data = read_weights(place, WEIGHTS_KEY, [trainer.get(name) for name in ("activation_dim", "dict_size")])
    tensors = tensors_of_archive(data, where)
    optional = {"k", "threshold"} if dict_class == "AutoEncoderTopK" else {"k", "group_sizes"}  # absent in the oldest releases
    refuse_other_names(tensors, _TENSORS[dict_class], where, optional if "TopK" in dict_class else ())
    config = place.path(CONFIG_KEY)
    if "TopK" in dict_class and "k" in tensors:
        promised = trainer.get("k", int(tensors["k"]))
        found = whole_number(tensors["k"].item() if tensors["k"].numel() == 1 else None, where, "k")
        refuse_unless(promised == found, f"{config}: k is {shown(promised)}, but the weights say {found}: the two files do not belong together")
    elif dict_class == "AutoEncoderTopK":
        tensors["k"] = torch.tensor(whole_number(trainer.get("k"), config, "trainer.k"))
    whole = {name: tensor for name, tensor in tensors.items() if name in ("k", "group_sizes")}
    return whole | in_precision({name: tensor for name, tensor in tensors.items() if name not in whole})


def _provenance(config: dict[str, Any], trainer: dict[str, Any]) -> Provenance:
    buffer = config["buffer"] if isinstance(config.get("buffer"), dict) else {}
    model = taken_if(str, trainer.get("lm_name"), "lm_name")
    found, layer = trainer.get("submodule_name"), trainer.get("layer")
    hookpoint = None
    if isinstance(found, str) and buffer.get("io", "out") == "out":  # the input of a module has another name
        hookpoint = in_transformer_lens(found, layer if type(layer) is int else None, model.value if model else None)
    said = f"{shown(found)} (submodule_name{', io ' + shown(buffer['io']) if 'io' in buffer else ''})"
    return Provenance(
        taken=known(
            hookpoint=Taken(hookpoint, "submodule_name") if hookpoint else None,
            subject=model,
            context_length=taken_if(int, buffer.get("ctx_len"), "buffer.ctx_len"),
        ),
        unclear={} if hookpoint or not found else {"hookpoint": f"{said} is not certain in the terms of TransformerLens"},
        notes={key: value for key, value in buffer.items() if key in ("io", "remove_bos")},
    )


_LINEAR = {"encoder.weight", "decoder.weight"}
_MATRICES = {"W_enc", "b_enc", "W_dec", "b_dec"}
_TENSORS: dict[str, set[str]] = {
    "AutoEncoder": _LINEAR | {"encoder.bias", "bias"},
    "AutoEncoderNew": _LINEAR | {"encoder.bias", "decoder.bias"},
    "AutoEncoderTopK": _LINEAR | {"encoder.bias", "b_dec"},
    "BatchTopKSAE": _LINEAR | {"encoder.bias", "b_dec", "threshold"},
    "MatryoshkaBatchTopKSAE": _MATRICES | {"threshold"},
    "JumpReluAutoEncoder": _MATRICES | {"threshold"},
    "GatedAutoEncoder": _LINEAR | {"decoder_bias", "gate_bias", "mag_bias", "r_mag"},
}


def _read_linear(tensors: Tensors, bias: str, rule: Rule, vectors: Tensors, provenance: Provenance, **rest: Any) -> RawForm:
    """The classes whose matrices are `nn.Linear`'s: [outputs, inputs]."""
    matrices = [tensors[name] for name in ("encoder.weight", "decoder.weight")]
    for name, matrix in zip(("encoder.weight", "decoder.weight"), matrices, strict=True):
        refuse_unless(matrix.ndim == 2, f"{WEIGHTS_KEY}: {name} is {list(matrix.shape)}, expected a matrix: damaged")
    W_enc, W_dec = (matrix.t().contiguous() for matrix in matrices)
    return RawForm(rule, W_enc, W_dec, tensors[bias], vectors, provenance=provenance, **rest)


def _read_relu(tensors: Tensors, provenance: Provenance) -> RawForm:
    form = _read_linear(tensors, "bias", "relu", {"b_enc": tensors["encoder.bias"]}, provenance).checked(WEIGHTS_KEY)
    norms = torch.linalg.vector_norm(form.W_dec, dim=1)
    if torch.allclose(norms, torch.ones_like(norms)):  # so does `AutoEncoder.normalize_decoder`
        return form
    refuse_unless(bool(norms.gt(0).all()), f"{WEIGHTS_KEY}: a direction of decoder.weight is zero, and its library divides by its norm: damaged")
    return replace(form, W_enc=form.W_enc * norms, W_dec=form.W_dec / norms[:, None], vectors={"b_enc": form.vectors["b_enc"] * norms})


def _read_april(tensors: Tensors, provenance: Provenance) -> RawForm:
    return _read_linear(tensors, "decoder.bias", "relu", {"b_enc": tensors["encoder.bias"]}, provenance, subtracts_b_dec=False)


def _read_top_k(tensors: Tensors, provenance: Provenance) -> RawForm:
    return _read_linear(tensors, "b_dec", "topk", {"b_enc": tensors["encoder.bias"]}, provenance, k=int(tensors["k"]))


def _read_batch_top_k(tensors: Tensors, provenance: Provenance) -> RawForm:
    vectors = {"b_enc": tensors["encoder.bias"], "threshold": _threshold(tensors, tensors["encoder.bias"])}
    return _read_linear(tensors, "b_dec", "jumprelu", vectors, provenance)


def _read_gated(tensors: Tensors, provenance: Provenance) -> RawForm:
    vectors = {"b_gate": tensors["gate_bias"], "b_mag": tensors["mag_bias"], "r_mag": tensors["r_mag"]}
    return _read_linear(tensors, "decoder_bias", "gated", vectors, provenance)


def _read_matryoshka(tensors: Tensors, provenance: Provenance) -> RawForm:
    return replace(_read_jumprelu(tensors | {"threshold": _threshold(tensors, tensors["b_enc"])}, provenance), subtracts_b_dec=True)


def _read_jumprelu(tensors: Tensors, provenance: Provenance) -> RawForm:
    vectors = {"b_enc": tensors["b_enc"], "threshold": tensors["threshold"]}
    return RawForm("jumprelu", tensors["W_enc"], tensors["W_dec"], tensors["b_dec"], vectors, subtracts_b_dec=False, provenance=provenance)


def _threshold(tensors: Tensors, like: Shaped[Tensor, " d_sae"]) -> Shaped[Tensor, " d_sae"]:
    threshold = tensors["threshold"]
    refuse_unless(threshold.numel() == 1, f"the threshold of {WEIGHTS_KEY} has {threshold.numel()} elements, expected 1: the file is damaged")
    refuse_unless(
        float(threshold) >= 0,
        f"the threshold of {WEIGHTS_KEY} was never set ({float(threshold):.3g}), so which features fire is not known: train it further",
    )
    return threshold.reshape(1).expand(like.numel()).clone()


_READERS: dict[str, Callable[[Tensors, Provenance], RawForm]] = {
    "AutoEncoder": _read_relu,
    "AutoEncoderNew": _read_april,
    "AutoEncoderTopK": _read_top_k,
    "BatchTopKSAE": _read_batch_top_k,
    "MatryoshkaBatchTopKSAE": _read_matryoshka,
    "JumpReluAutoEncoder": _read_jumprelu,
    "GatedAutoEncoder": _read_gated,
}


def _linear(form: RawForm) -> Tensors:
    return {"encoder.weight": form.W_enc.t(), "decoder.weight": form.W_dec.t()}


def _write_relu(form: RawForm) -> tuple[str, Tensors]:
    form = form.subtracting(False)
    return "AutoEncoderNew", {**_linear(form), "encoder.bias": form.vectors["b_enc"], "decoder.bias": form.b_dec}


def _write_top_k(form: RawForm) -> tuple[str, Tensors]:
    form = form.subtracting(True)
    scalars = {"k": torch.tensor(form.k, dtype=torch.int), "threshold": torch.tensor(-1.0)}
    return "AutoEncoderTopK", {**_linear(form), "encoder.bias": form.vectors["b_enc"], "b_dec": form.b_dec, **scalars}


def _write_jumprelu(form: RawForm) -> tuple[str, Tensors]:
    form = form.subtracting(False)
    return "JumpReluAutoEncoder", {"W_enc": form.W_enc, "W_dec": form.W_dec, "b_dec": form.b_dec, **form.vectors}


def _write_gated(form: RawForm) -> tuple[str, Tensors]:
    form = form.subtracting(True)
    names = {"gate_bias": "b_gate", "mag_bias": "b_mag", "r_mag": "r_mag"}
    return "GatedAutoEncoder", {**_linear(form), "decoder_bias": form.b_dec, **{theirs: form.vectors[ours] for theirs, ours in names.items()}}


_WRITERS: dict[str, Callable[[RawForm], tuple[str, Tensors]]] = {
    "relu": _write_relu,
    "topk": _write_top_k,
    "jumprelu": _write_jumprelu,
    "gated": _write_gated,
}
