"""The layout of sparsify (EleutherAI): `cfg.json` and `sae.safetensors`, as its `SparseCoder.load_from_disk` has it.

It knows TopK on x − b_dec, and TopK transcoders between two hookpoints of one width. Read from: eai-sparsify 1.3.3,
`sparse_coder.py`, `fused_encoder.py`.
"""

from typing import Any

from sae.errors import InputError
from sae.interoperability.raw_form import RawForm
from sae.interoperability.reading import read_safetensors, refuse_unless, require, whole_number
from sae.storage import Place

NAME = "sparsify"
CONFIG_KEY = "cfg.json"
WEIGHTS_KEY = "sae.safetensors"


def write(form: RawForm, origin: dict[str, Any]) -> dict[str, Any]:
    """The two files, weights first.

    Raises:
        InputError: the dictionary is not TopK, or a transcoder between different widths.
    """
    if form.rule != "topk":
        raise InputError(
            f"sparsify holds TopK dictionaries only, and the features of this one follow the {form.rule} rule: export to saelens instead"
        )
    if form.d_in != form.d_out:
        raise InputError(
            f"sparsify's transcoders lead to a hookpoint of the same width, this one from {form.d_in} to {form.d_out}: it cannot be exported"
        )
    form = form if form.is_transcoder else form.subtracting(True)
    config = {
        "activation": "topk",
        "d_in": form.d_in,
        "expansion_factor": max(1, form.d_sae // form.d_in),
        "num_latents": form.d_sae,
        "k": form.k,
        "normalize_decoder": True,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": form.is_transcoder,
        "hookpoint": origin.get("hookpoint"),
    }
    weights = {"encoder.weight": form.W_enc.t().contiguous(), "encoder.bias": form.vectors["b_enc"], "W_dec": form.W_dec, "b_dec": form.b_dec}
    return {WEIGHTS_KEY: weights, CONFIG_KEY: config}


def read(place: Place) -> RawForm:
    """A dictionary that sparsify wrote.

    Raises:
        InputError: it is none, is damaged, or is a skip or a groupmax coder.
    """
    where = place.path(CONFIG_KEY)
    config = require(place.get_json(CONFIG_KEY), dict, where, "the file")
    for key, plain, what in (
        ("activation", "topk", "another rule than TopK"),
        ("skip_connection", False, "a coder with a linear path around its features"),
    ):
        found = config.get(key, plain)
        refuse_unless(found == plain, f"{where}: {key} is {str(found)[:40]!r}: {what} cannot be imported; TopK coders can")
    transcode = bool(config.get("transcode", False))
    tensors = read_safetensors(place, WEIGHTS_KEY, {"encoder.weight", "encoder.bias", "W_dec", "b_dec"})
    form = RawForm(
        rule="topk",
        W_enc=tensors["encoder.weight"].t().contiguous(),
        W_dec=tensors["W_dec"],
        b_dec=tensors["b_dec"],
        vectors={"b_enc": tensors["encoder.bias"]},
        subtracts_b_dec=not transcode,
        k=whole_number(config.get("k"), where, "k"),
        is_transcoder=transcode,
        notes={"hookpoint": config.get("hookpoint")},
    ).checked(place.path(WEIGHTS_KEY))
    if config.get("d_in") != form.d_in:
        raise InputError(f"{where}: d_in is {config.get('d_in')!r}, but the weights have {form.d_in}: the two files do not belong together")
    return form
