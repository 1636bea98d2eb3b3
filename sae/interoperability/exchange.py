"""Export of a dictionary to another library's layout, and import from it: the two doors of this room."""

from dataclasses import replace
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import save

from sae.checkpoint import load_dictionary, save_dictionary
from sae.errors import InputError, PlanError
from sae.interoperability import dictionary_learning, saelens, sparsify
from sae.interoperability.importing import dictionary_from
from sae.interoperability.layouts import layout_of
from sae.interoperability.model_card import CARD_KEY, CardOptions, model_card
from sae.interoperability.origin import Origin, origin_of
from sae.interoperability.raw_form import RawForm, raw_form
from sae.interoperability.reading import refuse_unless
from sae.storage import Place, to_json

LAYOUTS: dict[str, ModuleType] = {"saelens": saelens, "dictionary_learning": dictionary_learning, "sparsify": sparsify}


def export_dictionary(dictionary: Place, layout: str, output: Place, options: CardOptions | None = None) -> RawForm:
    """Write a dictionary in another library's layout, with a model card beside it.

    Given raw activations, that library computes the same features and the same reconstruction, up to rounding.

    Args:
        dictionary: its directory; of a run's dictionary the card also tells what the run measured of it.
        layout: one of `LAYOUTS`.
        output: an empty place; the file that makes it whole for that library is written last.
        options: licence and address, for the card.

    Returns:
        What was written, in terms of raw activations.

    Raises:
        InputError: there is no dictionary, the output is not empty, or the layout cannot express the dictionary.
        PlanError: the run's evaluation is of another dictionary, whose numbers the card would show.
    """
    library = _library(layout)
    form = raw_form(load_dictionary(dictionary))
    origin = origin_of(dictionary)
    _refuse_numbers_of_another(origin, dictionary)
    files = library.write(form, origin.facts)
    _refuse_unless_empty(output)
    output.put(CARD_KEY, model_card(origin, layout, form, options or CardOptions()).encode())
    for key, content in files.items():
        output.put(key, _bytes(key, content))
    return form


def import_dictionary(
    source: Place,
    output: Place,
    layout: str | None = None,
    *,
    hookpoint: str | None = None,
    target_hookpoint: str | None = None,
    subject: str | None = None,
) -> RawForm:
    """Read a dictionary in another library's layout and write it as ours, so that `load_dictionary` opens it.

    Its features of raw activations are those that library computes, up to rounding. What it was trained with is not known here, so the
    coefficients of its configuration are this project's defaults; `metadata.imported` says where it came from.

    Args:
        source: the directory that library wrote.
        output: an empty place.
        layout: one of `LAYOUTS`; None tells by the files.
        hookpoint: whose activations it encodes, instead of what its files say.
        target_hookpoint: whose activations a transcoder reconstructs.
        subject: name of the model.

    Returns:
        What was read, with its provenance.

    Raises:
        InputError: the source is of no known layout, is damaged or hostile, has no counterpart here, or the output is not empty.
    """
    layout = layout or layout_of(source, LAYOUTS)
    form: RawForm = _library(layout).read(source)
    refuse_unless(form.is_transcoder or target_hookpoint is None, f"{source.url} is no transcoder, so it has no target hookpoint")
    provenance = form.provenance.with_given(hookpoint=hookpoint, target_hookpoint=target_hookpoint, subject=subject)
    dictionary = dictionary_from(form)
    _refuse_unless_empty(output)
    name = output.url.rstrip("/").rsplit("/", 1)[-1]
    save_dictionary(output, dictionary, {"name": name, **provenance.metadata(layout, source.url)})
    return replace(form, provenance=provenance)


def _refuse_numbers_of_another(origin: Origin, dictionary: Place) -> None:
    measured, known = origin.evaluation.get("inputs") or {}, origin.config.get("metadata") or {}
    for field, ours in (("dictionary_digest", origin.config.get("digest")), *((key, known.get(key)) for key in ("subject_digest", "store_digest"))):
        theirs = measured.get(field)
        if ours and theirs and ours != theirs:
            raise PlanError(
                f"the run's evaluation of {origin.name!r} was measured with the {field} {str(theirs)[:12]!r}, and {dictionary.url} has "
                f"{str(ours)[:12]!r}: the card would show another dictionary's numbers. Evaluate it again, or export a copy outside the run"
            )


def _library(layout: str) -> Any:
    if layout not in LAYOUTS:
        raise InputError(f"no layout {layout!r}. Possible layouts: {', '.join(LAYOUTS)}")
    return LAYOUTS[layout]


def _refuse_unless_empty(output: Place) -> None:
    present = output.list()
    if present:
        raise InputError(f"{output.url} holds {present[0]} already, and two dictionaries must not mix: choose an empty output, or delete it")


def _bytes(key: str, content: Any) -> bytes:
    if isinstance(content, bytes):
        return content
    if key.endswith(".json"):
        return to_json(content)
    tensors: dict[str, torch.Tensor] = {name: tensor.contiguous() for name, tensor in content.items()}
    return save(tensors, metadata={"format": "pt"})
