"""Concepts in labelled text: which label a single feature, or a few, can tell, beside the best neuron."""

from dataclasses import dataclass
from typing import Any

from sae.report.gather import Json, RunRecord
from sae.report.numbers import Cell, shown, shown_interval
from sae.units import shown_source, unit_name

KINDS = {"single": "best one"}


@dataclass(frozen=True)
class ConceptTable:
    """Detection of labels on held-out text.

    Attributes:
        says: how much text, in words.
        sources: neurons first, then dictionaries.
        labels: rows of (label, F1 of saying it everywhere, cells: of each source F1, and the unit with its other figures).
        means: rows of (source, detector, cells: mean F1, difference to the neurons, verdict).
        units: the word for neurons at this hookpoint.
    """

    says: str
    sources: list[str]
    labels: list[tuple[str, str, list[Cell]]]
    means: list[tuple[str, str, list[Cell]]]
    units: str


def concept_table(record: RunRecord) -> ConceptTable | None:
    """The table of `concepts.json` (`sae.concepts.report` describes it); None where concepts were not detected."""
    return None if record.concepts is None else _table(record.concepts)


def _table(concepts: Json) -> ConceptTable:
    sources: list[Json] = concepts["sources"]
    labels = [(each["label"], shown(each["chance_f1"], "fixed"), _best(sources, each["label"])) for each in concepts["labels"]]
    hookpoint = concepts["inputs"]["hookpoint"]
    units, names = unit_name(hookpoint), [shown_source(source["source"], hookpoint) for source in sources]
    means = [(name, _kind(kind), _mean(figures)) for name, source in zip(names, sources, strict=True) for kind, figures in _kinds(source)]
    tokens = [sum(each[key] for each in concepts["labels"]) for key in ("selection_tokens", "held_out_tokens")]
    says = (
        f"For each of {len(labels)} labels the unit that tells it best was chosen, with its threshold, on {tokens[0]:,} tokens of labelled text, and "
        f"measured on {tokens[1]:,} others, from other documents. Unit: number of the feature or of one of the {units} (− for values below zero), "
        f"below it sensitivity / specificity / correlation of its activation with the proxy."
    )
    return ConceptTable(says, names, labels, means, units)


def _best(sources: list[Json], label: str) -> list[Cell]:
    cells = []
    for source in sources:
        best: dict[str, Any] = next(each for each in source["detectors"] if each["kind"] == "single" and each["label"] == label)
        unit = f"{'−' if best['signs'][0] < 0 else ''}{best['units'][0]}"
        others = " / ".join(shown(best[key], "short") for key in ("sensitivity", "specificity", "proxy_correlation"))
        cells += [Cell(shown(best["f1"], "fixed"), shown_interval(best["f1_interval"], "fixed")), Cell(unit, others)]
    return cells


def _mean(figures: Json) -> list[Cell]:
    cells = [Cell(shown(figures["mean_f1"], "fixed"), shown_interval(figures["mean_f1_interval"], "fixed"))]
    if figures["minus_neurons"] is None:
        return [*cells, Cell(), Cell()]
    low, high = figures["minus_neurons_interval"]
    verdict = "higher" if low > 0 else "lower" if high < 0 else "within noise"
    return [*cells, Cell(shown(figures["minus_neurons"], "fixed"), shown_interval((low, high), "fixed")), Cell(verdict)]


def _kinds(source: Json) -> list[tuple[str, Json]]:
    return sorted(source["kinds"].items(), key=lambda pair: (pair[0] not in KINDS, len(pair[0]), pair[0]))


def _kind(kind: str) -> str:
    return KINDS.get(kind, kind.replace("probe_", "probe of "))
