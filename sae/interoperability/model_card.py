"""The model card: a README that can be pushed beside an export as it is, with what is known of the dictionary and nothing else.

Values that come from files or from the user are escaped: as JSON in the front matter (YAML reads it), as text in tables.
"""

import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from sae.architectures.registry import ARCHITECTURES
from sae.interoperability.origin import Json, Origin
from sae.interoperability.raw_form import RawForm
from sae.report.figures import GROUPS, LOSSES
from sae.report.gather import TRAINED, value_at
from sae.report.numbers import interval_at, shown, shown_interval

CARD_KEY = "README.md"
UNKNOWN_LICENSE = "unknown"
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")  # user/model
RULES = {
    "relu": "A feature is the ReLU of its pre-activation.",
    "topk": "Of each vector's pre-activations the {k} largest are kept, where positive.",
    "jumprelu": "A feature is its pre-activation where that exceeds the feature's threshold, else 0.",
    "gated": "A feature fires where its gate is open, with a magnitude of its own.",
}
LIBRARIES = {"saelens": "SAELens", "dictionary_learning": "dictionary_learning", "sparsify": "sparsify"}
LOADING = {
    "saelens": 'from sae_lens import SAE\n\ndictionary = SAE.load_from_disk("PATH")\nfeatures = dictionary.encode(activation)\n'
    "reconstruction = dictionary.decode(features)",
    "dictionary_learning": "from dictionary_learning.utils import load_dictionary\n\n"
    'dictionary, config = load_dictionary("PATH", device="cpu")\n'
    "features = dictionary.encode(activation)\nreconstruction = dictionary.decode(features)",
    "sparsify": 'from sparsify import SparseCoder\n\ncoder = SparseCoder.load_from_disk("PATH")\n'
    "top = coder.encode(activation)  # top_acts and top_indices, [batch k] each\nreconstruction = coder.decode(top.top_acts, top.top_indices)",
}
NOTES = {
    "saelens": "SAELens takes this directory for one of its own; nothing has to be converted.",
    "dictionary_learning": "`ae.pt` is a pickle of tensors, as that library wants it; `torch.load` reads it with `weights_only=True`.",
    "sparsify": "sparsify returns the kept features as values and indices.",
}

_ESCAPES = {ord(mark): f"\\{mark}" for mark in "\\|*_[]#~"} | {ord(mark): f"&#{ord(mark)};" for mark in "<>`"}


@dataclass(frozen=True)
class CardOptions:
    """Facts for the model card that only the user knows.

    Attributes:
        license: an identifier as the hub lists them (`mit`, `apache-2.0`, `cc-by-4.0`, …).
    """

    license: str = UNKNOWN_LICENSE


def model_card(origin: Origin, layout: str, form: RawForm, options: CardOptions) -> str:
    """The card's text.

    Args:
        origin: what is known of the dictionary.
        layout: of the export.
        form: what was exported.
        options: licence.
    """
    facts = origin.facts
    hookpoint = facts.get("hookpoint")
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False, keep_trailing_newline=True)
    return environment.from_string(files("sae.interoperability").joinpath("model_card.md.j2").read_text(encoding="utf-8")).render(
        front_matter=list(_front_matter(origin, options)),
        title=_text(f"{origin.name}: {form.d_sae:,} features"),
        d_in=f"{form.d_in:,}",
        d_sae=f"{form.d_sae:,}",
        where=" at " + _text(f"{hookpoint} of {_subject(facts.get('subject'))}") if hookpoint else "",
        library=LIBRARIES[layout],
        rule=RULES[form.rule].format(k=form.k),
        numbers=list(_numbers(origin)),
        measured_on=_measured_on(origin.evaluation),
        facts=[(label, _text(value)) for label, value in _facts(origin)],
        directory="PATH",
        loading=LOADING[layout],
        loading_note=NOTES[layout],
        method=_method(origin),
        recipe=[(_text(key), _text(value)) for key, value in _flatten(_recipe(origin))],
        license=_text(
            "No licence was given: ask the author before using it." if options.license == UNKNOWN_LICENSE else f"Licence: {options.license}."
        ),
    )


def _front_matter(origin: Origin, options: CardOptions) -> Iterator[tuple[str, str]]:
    subject = origin.facts.get("subject")
    yield "license", json.dumps(options.license)
    yield (
        "tags",
        json.dumps(["sparse-autoencoder", "dictionary-learning", "mechanistic-interpretability", "monosem", str(origin.config.get("architecture"))]),
    )
    if HUB_NAME.fullmatch(str(subject)):
        yield "base_model", json.dumps(subject)


def _numbers(origin: Origin) -> Iterator[Json]:
    for figure in (figure for group in (*GROUPS.values(), LOSSES) for figure in group):
        value = value_at(origin.result if figure.path in TRAINED else origin.evaluation, figure.path)
        if value is not None:
            interval = shown_interval(interval_at(origin.evaluation, figure.path), figure.style)
            yield {
                "name": _text(figure.name),
                "value": shown(value, figure.style) + (f" [{interval}]" if interval else ""),
                "says": _text(figure.says),
            }
    score = origin.explanation.get("explanation_score_median")
    if score is not None:
        interval = shown_interval(origin.explanation.get("explanation_score_interval"), "fixed")
        says = "Median rank correlation of predicted and true activations of the explained features."
        yield {"name": "Explanation score", "value": shown(score, "fixed") + (f" [{interval}]" if interval else ""), "says": says}


def _measured_on(evaluation: Json) -> str:
    if not evaluation:
        return "the training's own last steps"
    return f"{evaluation['num_tokens']:,} held-out tokens; special tokens are left out"


def _facts(origin: Origin) -> Iterator[tuple[str, str]]:
    result, facts = origin.result, origin.facts
    imported = value_at(origin.config, "metadata.imported")
    known: list[tuple[str, Any]] = [
        ("Subject model", _subject(facts.get("subject"))),
        ("Subject digest (SHA-256)", facts.get("subject_digest")),
        ("Hookpoint", facts.get("hookpoint")),
        ("Store digest", facts.get("store_digest")),
        ("Context length", facts.get("context_length")),
        ("Architecture", origin.config.get("architecture")),
        ("Trained on", f"{result['vectors']:,} activations in {result['steps']:,} steps" if {"vectors", "steps"} <= result.keys() else None),
        ("Dead window", f"the last {result['dead_window_vectors']:,} activations" if result.get("dead_window_vectors") else None),
        ("Seed", result.get("seed")),
        ("Versions", ", ".join(f"{name} {version}" for name, version in sorted((result.get("versions") or {}).items())) or None),
        ("Weights digest (SHA-256, before export)", value_at(origin.config, "weights.sha256")),
        ("Imported from", imported.get("layout") if isinstance(imported, dict) else None),
    ]
    return ((label, str(value)) for label, value in known if value is not None)


def _recipe(origin: Origin) -> Json:
    return {key: value for key, value in origin.plan.items() if key not in ("hookpoint", "store")}


def _method(origin: Origin) -> str:
    architecture = ARCHITECTURES.get(str(origin.config.get("architecture")))
    return inspect.getdoc(architecture) or "" if architecture and not value_at(origin.config, "metadata.imported") else ""


def _subject(subject: Any) -> str:
    return "Monosem's embedded one-layer transformer" if subject == "embedded" else str(subject or "an unnamed model")


def _flatten(values: Json, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in sorted(values.items()):
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _text(value: Any) -> str:
    """A value as one line of Markdown text in which nothing is markup."""
    return " ".join(str(value).split()).translate(_ESCAPES)
