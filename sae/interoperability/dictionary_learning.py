"""The layout of dictionary_learning: `ae.pt` and `config.json`, as its `utils.load_dictionary` has it.

`ae.pt` is a pickle of tensors. It is written with `torch.save` because that library reads nothing else, and read here with
`weights_only=True` alone, torch's unpickler that builds tensors and calls nothing: a file with anything else in it is refused.
That library's `AutoEncoder.from_pretrained` rescales features to directions of unit norm unless told `normalize_decoder=False`; with
it, they are ours. Read from: dictionary_learning 0.1.0, `dictionary.py`, `trainers/*.py`.
"""

import io
import pickle
import zipfile
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from sae.errors import InputError
from sae.interoperability.raw_form import RawForm, Rule
from sae.interoperability.reading import as_float32, refuse_unless, require, whole_number
from sae.storage import Place

NAME = "dictionary_learning"
CONFIG_KEY = "config.json"
WEIGHTS_KEY = "ae.pt"
Tensors = dict[str, Shaped[Tensor, "..."]]


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


def dict_class_of(form: RawForm) -> str:
    """The class of that library that holds a dictionary."""
    return _WRITERS[form.rule](form)[0]


def read(place: Place) -> RawForm:
    """A dictionary that dictionary_learning wrote.

    Raises:
        InputError: it is none, is damaged, holds more than tensors, or is of a class that has no counterpart here.
    """
    where = place.path(CONFIG_KEY)
    config = require(place.get_json(CONFIG_KEY), dict, where, "the file")
    trainer = require(config.get("trainer"), dict, where, "trainer")
    dict_class = trainer.get("dict_class")
    refuse_unless(
        dict_class in _READERS, f"{where}: dict_class {str(dict_class)[:40]!r} has no counterpart here; {', '.join(_READERS)} have: export another"
    )
    tensors = _load(place)
    try:
        form = _READERS[str(dict_class)](tensors)
    except KeyError as error:
        raise InputError(f"{place.path(WEIGHTS_KEY)} has no tensor {error}, which a {dict_class} has: the two files do not belong together") from None
    if form.k is not None and "k" in trainer and whole_number(trainer["k"], where, "trainer.k") != form.k:
        raise InputError(f"{where}: k is {trainer['k']}, but the weights say {form.k}: the two files do not belong together")
    form.notes.update(hookpoint=trainer.get("submodule_name"), subject=trainer.get("lm_name"), context_length=_context_length(config))
    return form.checked(place.path(WEIGHTS_KEY))


def _load(place: Place) -> Tensors:
    where = place.path(WEIGHTS_KEY)
    data = io.BytesIO(place.get(WEIGHTS_KEY))
    # A bare pickle, as torch wrote before 1.6, is not even opened.
    refuse_unless(zipfile.is_zipfile(data), f"{where} is damaged or holds more than tensors: expected a whole archive as torch.save writes it")
    data.seek(0)
    try:
        tensors = torch.load(data, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"{where} is damaged or holds more than tensors, and nothing else is read from a pickle ({reason}): take another file"
        ) from None
    tensors = require(tensors, dict, where, "the file")
    for name, tensor in tensors.items():
        refuse_unless(isinstance(tensor, Tensor), f"{where}: {str(name)[:40]!r} is {type(tensor).__name__}, expected a tensor: take another file")
    return {str(name): as_float32(tensor, where, str(name)) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def _context_length(config: dict[str, Any]) -> Any:
    buffer = config.get("buffer")
    return buffer.get("ctx_len") if isinstance(buffer, dict) else None


def _read_linear(tensors: Tensors, bias: str, rule: Rule, vectors: Tensors, **rest: Any) -> RawForm:
    """The classes whose matrices are `nn.Linear`'s: [outputs, inputs]."""
    W_enc, W_dec = tensors["encoder.weight"].t().contiguous(), tensors["decoder.weight"].t().contiguous()
    return RawForm(rule, W_enc, W_dec, tensors[bias], vectors, **rest)


def _read_relu(tensors: Tensors, bias: str, subtracts: bool) -> RawForm:
    return _read_linear(tensors, bias, "relu", {"b_enc": tensors["encoder.bias"]}, subtracts_b_dec=subtracts)


def _read_top_k(tensors: Tensors) -> RawForm:
    return _read_linear(tensors, "b_dec", "topk", {"b_enc": tensors["encoder.bias"]}, k=int(tensors["k"]))


def _read_batch_top_k(tensors: Tensors) -> RawForm:
    vectors = {"b_enc": tensors["encoder.bias"], "threshold": _threshold(tensors, tensors["encoder.bias"])}
    return _read_linear(tensors, "b_dec", "jumprelu", vectors)


def _read_gated(tensors: Tensors) -> RawForm:
    vectors = {"b_gate": tensors["gate_bias"], "b_mag": tensors["mag_bias"], "r_mag": tensors["r_mag"]}
    return _read_linear(tensors, "decoder_bias", "gated", vectors)


def _read_matryoshka(tensors: Tensors) -> RawForm:
    return _read_jumprelu(tensors | {"threshold": _threshold(tensors, tensors["b_enc"])}, subtracts=True)


def _read_jumprelu(tensors: Tensors, subtracts: bool = False) -> RawForm:
    vectors = {"b_enc": tensors["b_enc"], "threshold": tensors["threshold"]}
    return RawForm("jumprelu", tensors["W_enc"], tensors["W_dec"], tensors["b_dec"], vectors, subtracts_b_dec=subtracts)


def _threshold(tensors: Tensors, like: Shaped[Tensor, " d_sae"]) -> Shaped[Tensor, " d_sae"]:
    threshold = tensors["threshold"]
    refuse_unless(threshold.numel() == 1, f"the threshold of {WEIGHTS_KEY} has {threshold.numel()} elements, expected 1: the file is damaged")
    refuse_unless(float(threshold) >= 0, f"the threshold of {WEIGHTS_KEY} was never set (−1), so which features fire is not known: train it further")
    return threshold.reshape(1).expand(len(like)).clone()


_READERS: dict[str, Callable[[Tensors], RawForm]] = {
    "AutoEncoder": lambda tensors: _read_relu(tensors, "bias", True),
    "AutoEncoderNew": lambda tensors: _read_relu(tensors, "decoder.bias", False),
    "AutoEncoderTopK": _read_top_k,
    "BatchTopKSAE": _read_batch_top_k,
    "MatryoshkaBatchTopKSAE": _read_matryoshka,
    "JumpReluAutoEncoder": _read_jumprelu,
    "GatedAutoEncoder": _read_gated,
}


def _linear(form: RawForm) -> Tensors:
    return {"encoder.weight": form.W_enc.t(), "decoder.weight": form.W_dec.t()}


def _write_relu(form: RawForm) -> tuple[str, Tensors]:
    if form.subtracts_b_dec:
        return "AutoEncoder", {"bias": form.b_dec, **_linear(form), "encoder.bias": form.vectors["b_enc"]}
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
