"""Concept detection as a whole: detectors of features beside those of neurons, their table for people and their files.

The halves keep the choice of a detector apart from its measurement. Subject and dictionaries may have been trained on both: to say something
about text that they never saw, name such text. Tokens are drawn evenly from the labels, so a rare label counts as much as a common one.

::

    <output>/detectors.arrow    a detector a row: source (a dictionary's name, or `neurons`), then the fields of
                                `sae.concepts.measures.DetectorFigures`, intervals as `f1_low`, `f1_high`
    <output>/concepts.json      last: `ConceptReport`
"""

import numpy as np
import pyarrow as pa
from pydantic import Field

from sae.concepts.detectors import Detector, Units, best_single, sparse_probes
from sae.concepts.labelled import ConceptsConfig, LabelledTokens
from sae.concepts.measures import (
    BOOTSTRAP_SAMPLES,
    DetectorFigures,
    KindFigures,
    confusion_by_sequence,
    detector_figures,
    f1_of,
    interval,
    resampled,
)
from sae.concepts.proxy import log_likelihood_ratios
from sae.config import Config
from sae.errors import PlanError
from sae.records import check_objects, get_record, put_record
from sae.storage import Place, sha256_hex
from sae.tables import ipc_bytes
from sae.units import NEURONS, shown_source, unit_name

REPORT_KEY, DETECTORS_KEY = "concepts.json", "detectors.arrow"


class ConceptInputs(Config):
    """Inputs of a concept report: two reports with equal inputs hold the same figures."""

    subject: str = Field(description="the subject model and its precision")
    tokenizer_digest: str
    text_digest: str = Field(description="of the labelled documents")
    dictionary_digests: dict[str, str]
    hookpoint: str
    context_length: int
    config: ConceptsConfig


class LabelFigures(Config):
    """Amount of text of a label."""

    label: str
    selection_tokens: int = Field(description="tokens drawn from the half on which detectors are selected")
    held_out_tokens: int = Field(description="tokens drawn from the half on which they are measured")
    chance_f1: float = Field(description="F1 on the held-out half of a detector that finds the label everywhere")


class SourceFigures(Config):
    """All detectors made of the units of one source."""

    source: str = Field(description="a dictionary's name, or `neurons`")
    kinds: dict[str, KindFigures]
    detectors: list[DetectorFigures]


class ConceptReport(Config):
    """Concept detection of several dictionaries and of the neurons, on the same tokens."""

    labels: list[LabelFigures]
    sources: list[SourceFigures] = Field(description="neurons first")
    inputs: ConceptInputs
    tables: dict[str, str] = Field({}, description="SHA-256 of the detectors' table, by its file")


def detect(sources: dict[str, Units], tokens: LabelledTokens, inputs: ConceptInputs) -> ConceptReport:
    """Select detectors of every source on one half and measure them on the other.

    Args:
        sources: units of the neurons (under `NEURONS`) and of each dictionary, on the drawn tokens.
        tokens: the sequences and the tokens drawn from them.
        inputs: what both were made with.
    """
    label_ids, held_out = tokens.label_ids[tokens.rows], tokens.held_out[tokens.rows]
    num_labels = len(tokens.labels)
    ratios = log_likelihood_ratios(tokens.sequences, tokens.lengths, tokens.label_ids, tokens.held_out, num_labels)[:, tokens.rows, tokens.positions]
    rows = (np.cumsum(tokens.held_out) - 1)[tokens.rows[held_out]]  # held-out sequences, numbered
    weights = resampled(tokens.label_ids[tokens.held_out], inputs.config.seed)
    figures: dict[str, list[DetectorFigures]] = {}
    samples: dict[tuple[str, str], np.ndarray] = {}
    for source in sorted(sources, key=lambda name: name != NEURONS):
        units = sources[source]
        for detectors in _detectors(units, label_ids, ~held_out, num_labels, inputs.config):
            means = np.zeros(BOOTSTRAP_SAMPLES)
            for label, detector in enumerate(detectors):
                scores, present = detector.scores[held_out], label_ids[held_out] == label
                counts = confusion_by_sequence(scores > detector.threshold, present, rows, len(weights[0]))
                f1_samples = f1_of(weights @ counts)
                means += f1_samples / num_labels
                names = (tokens.labels[label], units.ids[detector.units], units.signs[detector.units])
                found = detector_figures(detector, names, counts, f1_samples, (scores, present, ratios[label, held_out]))
                figures.setdefault(source, []).append(found)
            samples[source, detectors[0].kind] = means
    return ConceptReport(
        labels=[_label_figures(tokens, label, label_ids, held_out) for label in range(num_labels)],
        sources=[SourceFigures(source=source, kinds=_kinds(source, figures, samples), detectors=found) for source, found in figures.items()],
        inputs=inputs,
    )


def _detectors(units: Units, label_ids: np.ndarray, selection: np.ndarray, num_labels: int, config: ConceptsConfig) -> list[list[Detector]]:
    return [
        best_single(units, label_ids, selection, num_labels),
        *(sparse_probes(units, label_ids, selection, num_labels, size) for size in config.probe_sizes),
    ]


def _label_figures(tokens: LabelledTokens, label: int, label_ids: np.ndarray, held_out: np.ndarray) -> LabelFigures:
    mine = label_ids == label
    share = (mine & held_out).sum() / held_out.sum()
    return LabelFigures(
        label=tokens.labels[label],
        selection_tokens=int((mine & ~held_out).sum()),
        held_out_tokens=int((mine & held_out).sum()),
        chance_f1=float(2 * share / (1 + share)),
    )


def _kinds(source: str, figures: dict[str, list[DetectorFigures]], samples: dict[tuple[str, str], np.ndarray]) -> dict[str, KindFigures]:
    found = {}
    for kind in dict.fromkeys(each.kind for each in figures[source]):
        mean, neurons = (float(np.mean([each.f1 for each in figures[name] if each.kind == kind])) for name in (source, NEURONS))
        beside = source != NEURONS
        found[kind] = KindFigures(
            mean_f1=mean,
            mean_f1_interval=interval(samples[source, kind]),
            minus_neurons=mean - neurons if beside else None,
            minus_neurons_interval=interval(samples[source, kind] - samples[NEURONS, kind]) if beside else None,
        )
    return found


def write_concepts(place: Place, report: ConceptReport) -> ConceptReport:
    """Write the detectors' table and then the report, which names it by its digest; returns the report."""
    rows = [{"source": source.source} | detector.model_dump() for source in report.sources for detector in source.detectors]
    for row in rows:
        row["f1_low"], row["f1_high"] = row.pop("f1_interval")
    data = ipc_bytes(pa.Table.from_pylist(rows))
    place.put(DETECTORS_KEY, data)
    report = report.model_copy(update={"tables": {DETECTORS_KEY: sha256_hex(data)}})
    put_record(place, REPORT_KEY, report)
    return report


def read_concepts(place: Place) -> ConceptReport:
    """Read the report, proved with its table.

    Raises:
        InputError: there is none, or a field is missing, unknown or of a wrong type.
        CorruptObjectError: it or the table was changed or lost after it was written.
    """
    report = get_record(place, REPORT_KEY, ConceptReport)
    check_objects(place, {DETECTORS_KEY: report.tables.get(DETECTORS_KEY, "none")}, place.path(REPORT_KEY))
    return report


def finished_concepts(place: Place, inputs: ConceptInputs) -> ConceptReport | None:
    """The report that is already there, or None.

    Raises:
        PlanError: it is there and was measured with other inputs.
        InputError, CorruptObjectError: as `read_concepts`.
    """
    if not place.exists(REPORT_KEY):
        return None
    report = read_concepts(place)
    differing = [name for name in ConceptInputs.model_fields if getattr(report.inputs, name) != getattr(inputs, name)]
    if differing:
        raise PlanError(f"{place.path(REPORT_KEY)} was measured with another {', '.join(differing)}: choose another output, or delete it")
    return report


def concepts_table(report: ConceptReport) -> str:
    """The report for people: the best single unit of every label and source, then the mean F1 of every kind of detector."""
    rows: list[tuple[str, ...]] = [("label", "source", "unit", "F1 [95 %]", "sensitivity", "specificity", "proxy r")]
    hookpoint = report.inputs.hookpoint
    for label in report.labels:
        for source in report.sources:
            best = next(each for each in source.detectors if each.kind == "single" and each.label == label.label)
            low, high = best.f1_interval
            rows.append(
                (
                    label.label if source is report.sources[0] else "", shown_source(source.source, hookpoint),
                    f"{'−' if best.signs[0] < 0 else ''}{best.units[0]}",
                    f"{best.f1:.3f} [{low:.3f}, {high:.3f}]", f"{best.sensitivity:.3f}", f"{best.specificity:.3f}",
                    "–" if best.proxy_correlation is None else f"{best.proxy_correlation:.2f}",
                )
            )  # fmt: skip
        rows.append(("", "(found everywhere)", "", f"{label.chance_f1:.3f}", "1.000", "0.000", ""))
    lines = _aligned(rows)
    lines += ["", *_aligned([("mean F1 over labels", "detector", "F1 [95 %]", f"less the {unit_name(hookpoint)}' [95 %]"), *_means(report)])]
    return "\n".join(lines)


def _means(report: ConceptReport) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for source in report.sources:
        name = shown_source(source.source, report.inputs.hookpoint)
        for kind, each in source.kinds.items():
            low, high = each.mean_f1_interval
            beside = "–"
            if each.minus_neurons is not None and each.minus_neurons_interval is not None:
                below, above = each.minus_neurons_interval
                verdict = "higher" if below > 0 else "lower" if above < 0 else "within noise"
                beside = f"{each.minus_neurons:+.3f} [{below:+.3f}, {above:+.3f}] {verdict}"
            rows.append((name, kind.replace("_", " "), f"{each.mean_f1:.3f} [{low:.3f}, {high:.3f}]", beside))
    return rows


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [lines[0], "  ".join("─" * width for width in widths), *lines[1:]]
