"""The layout of sparsify (EleutherAI): `cfg.json` and `sae.safetensors`, as its `SparseCoder.load_from_disk` has it.

It knows TopK on x − b_dec, and TopK transcoders between two hookpoints of one width. The name of the directory is the activation's, and
`config.json` next to the directory names the model. Read from: eai-sparsify 1.0.0 to 1.3.3, `sparse_coder.py`, `fused_encoder.py`,
`config.py`, `trainer.py`.
"""

import re
from typing import Any

from sae.errors import InputError
from sae.interoperability.configuration_keys import Bound, KeyList
from sae.interoperability.hookpoint_names import in_transformer_lens
from sae.interoperability.imported_origin import Provenance, Taken, known, taken_if
from sae.interoperability.raw_form import RawForm
from sae.interoperability.reading import in_precision, read_config, read_safetensors, refuse_unless, refuse_unless_equal, truth, whole_number
from sae.storage import Place

NAME = "sparsify"
CONFIG_KEY = "cfg.json"
WEIGHTS_KEY = "sae.safetensors"
RUN_CONFIG_KEY = "config.json"  # of the training, in the parent directory
TENSORS = {"encoder.weight", "encoder.bias", "W_dec", "b_dec"}
KEYS = KeyList(
    honoured=frozenset({"d_in", "expansion_factor", "num_latents", "k", "transcode", "hookpoint"}),
    # `normalize_decoder` acts on the first weights and in training, before they are saved.
    without_effect=frozenset({"normalize_decoder", "multi_topk"}),
    bound={
        "activation": Bound(("topk",), "Another rule than TopK cannot be imported"),
        "skip_connection": Bound((False, None), "A coder with a linear path around its features cannot be imported"),
        "signed": Bound((False, None), "Features of both signs have no counterpart here"),
    },
)


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
    config = read_config(place, CONFIG_KEY)
    KEYS.check(config, where)
    transcode = truth(config.get("transcode", False), where, "transcode")
    d_in = whole_number(config.get("d_in"), where, "d_in")
    d_sae = config.get("num_latents") or d_in * whole_number(config.get("expansion_factor"), where, "expansion_factor")
    stored = read_safetensors(place, WEIGHTS_KEY, TENSORS, (d_in, d_sae))
    precisions = sorted({str(tensor.dtype) for tensor in stored.values()})
    refuse_unless(len(precisions) == 1, f"{place.path(WEIGHTS_KEY)} holds {' and '.join(precisions)}, expected one precision. Convert it first")
    tensors = in_precision(stored)
    form = RawForm(
        rule="topk",
        W_enc=tensors["encoder.weight"].t().contiguous(),
        W_dec=tensors["W_dec"],
        b_dec=tensors["b_dec"],
        vectors={"b_enc": tensors["encoder.bias"]},
        subtracts_b_dec=not transcode,
        k=whole_number(config.get("k"), where, "k"),
        is_transcoder=transcode,
        provenance=_provenance(place, config),
    ).checked(place.path(WEIGHTS_KEY))
    for name, promised, found in (("d_in", d_in, form.d_in), ("num_latents", d_sae, form.d_sae)):
        refuse_unless_equal(promised, found, where, name)
    return form


def _provenance(place: Place, config: dict[str, Any]) -> Provenance:
    parent, _, name = re.sub(r"/seed\d+$", "", place.url).rpartition("/")
    run = _run_config(parent)
    model = taken_if(str, run.get("model"), f"model in ../{RUN_CONFIG_KEY}")
    given, source = (config["hookpoint"], "hookpoint") if isinstance(config.get("hookpoint"), str) else (name, "name of the directory")
    # A transcoder reads a module's input, whose name in TransformerLens depends on the model.
    hookpoint = in_transformer_lens(given, None, model.value if model else None) if not config.get("transcode") or source == "hookpoint" else None
    return Provenance(
        taken=known(
            hookpoint=Taken(hookpoint, source) if hookpoint else None,
            subject=model,
            context_length=taken_if(int, run.get("ctx_len"), f"../{RUN_CONFIG_KEY}"),
        ),
        unclear={} if hookpoint else {"hookpoint": f"{given[:60]!r} ({source}) is not certain in the terms of TransformerLens"},
        notes={key: run[key] for key in ("dataset",) if isinstance(run.get(key), str)},
    )


def _run_config(parent: str) -> dict[str, Any]:
    if not parent or parent.endswith((":", "/")):
        return {}
    place = Place(parent)
    try:
        run = read_config(place, RUN_CONFIG_KEY) if place.exists(RUN_CONFIG_KEY) else {}
    except InputError:  # it may be anything: nothing but names is taken from it
        return {}
    return run if isinstance(run.get("sae"), dict) else {}
