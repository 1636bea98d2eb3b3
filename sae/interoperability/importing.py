"""Import: the architecture that fits a dictionary on raw activations, and its weights in our units."""

from typing import Any

import torch
from pydantic import TypeAdapter

from sae.architectures.base import Dictionary
from sae.architectures.config import SAEConfig
from sae.architectures.registry import ARCHITECTURES, build_dictionary
from sae.interoperability.raw_form import RawForm

SMALLEST_THRESHOLD = 1e-30
EQUAL_NORMS = 1e-3  # rows of a decoder that was kept at unit norm in 16 bits still agree to this


@torch.no_grad()
def dictionary_from(form: RawForm) -> Dictionary:
    """A dictionary of ours with the same features of raw activations.

    Where all directions have one norm c, `input_scale` is 1/c and the directions are unit vectors, as in the dictionaries trained here.
    """
    norms = torch.linalg.vector_norm(form.W_dec.double(), dim=1)
    norm = norms.mean().item()
    uniform = norm > 0 and ((norms - norm).abs().max().item() <= EQUAL_NORMS * norm)
    architecture = _architecture_of(form, uniform)
    if not form.is_transcoder:
        form = form.subtracting(ARCHITECTURES[architecture].pre_encoder_bias)
    scale = 1 / norm if uniform else 1.0
    config = TypeAdapter(SAEConfig).validate_python(_config(form, architecture))
    dictionary = build_dictionary(config, form.d_in, form.d_out if form.is_transcoder else None)
    encoded_scale = 1.0 if form.is_transcoder else scale  # the scale of a transcoder's input leaves no trace, and none is needed
    dictionary.input_scale.fill_(encoded_scale)
    dictionary.decoded_scale.fill_(scale)
    dictionary.W_enc.copy_(form.W_enc.double() / encoded_scale)
    dictionary.W_dec.copy_(form.W_dec.double() * scale)
    dictionary.b_dec.copy_(form.b_dec.double() * scale)
    for name, vector in form.vectors.items():
        if name == "threshold":  # ours is positive by its logarithm; below this one every positive entry fires, as at 0
            dictionary.get_parameter("log_threshold").copy_(vector.clamp_min(SMALLEST_THRESHOLD).log())
        else:
            dictionary.get_parameter(name).copy_(vector)
    return dictionary.eval()


def _architecture_of(form: RawForm, uniform: bool) -> str:
    return "relu_april" if form.rule == "relu" and not uniform else form.rule


def _config(form: RawForm, architecture: str) -> dict[str, Any]:
    values: dict[str, Any] = {"architecture": architecture, "d_sae": form.d_sae}
    return values | ({"k": form.k} if form.rule == "topk" else {})
