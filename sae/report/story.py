"""The sentences and lists of facts of the report: what was done, on what, and what came of it."""

from datetime import datetime
from typing import Any

import numpy as np

from sae.report.gather import ExplainedSource, Json, RunRecord, TrainedDictionary, figure_of, value_at
from sae.report.numbers import shown, shown_interval

COUNTS = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")
TEXT_SOURCES = {"dependencies": "the text of the project's pinned dependencies"}
Facts = list[tuple[str, str]]


def heading(record: RunRecord) -> str:
    """Count the dictionaries of each size, for the heading, with the hookpoint."""
    configs = [dictionary.config for dictionary in record.dictionaries if dictionary.config]
    sizes = {config["config"]["d_sae"] for config in configs}
    places = sorted({place for dictionary in record.dictionaries if (place := hookpoint_of(dictionary))})
    number = len(record.dictionaries)
    what = f"{COUNTS[number] if number < len(COUNTS) else number} {'dictionary' if number == 1 else 'dictionaries'}"
    size = f" of {sizes.pop():,} features" if len(sizes) == 1 else ""
    return f"{what}{size}{' for ' if places else ''}{', '.join(places)}"


def lead(record: RunRecord) -> str:
    """On which activations of which model, over which text."""
    plan = value_at(record.store, "plan")
    if not plan:
        return "The store of activations is not in this run directory, so their origin is not told here."
    rows = sum(statistics["rows"] for statistics in record.store["statistics"].values()) if record.store else 0
    tokens = plan["num_sequences"] * plan["context_length"]
    return (
        f"Trained on {rows:,} activations of {_subject_name(plan['subject'])}, taken while it read {tokens:,} tokens of {text_of(record)}. "
        f"Every figure below was measured on held-out documents."
    )


def text_of(record: RunRecord) -> str:
    """Describe the text in words."""
    sources = value_at(record.corpus, "config.text") or []
    return ", ".join(TEXT_SOURCES.get(source, source) for source in sources) or "text"


def findings(record: RunRecord) -> list[str]:
    """One sentence for each dictionary, and one on the explanations of each."""
    sentences = [_found(dictionary) for dictionary in record.dictionaries if dictionary.evaluation]
    return sentences + [_explained(source, record.sources) for source in record.sources if not source.control and len(source.scores())]


def facts(record: RunRecord, summary: Json, written: datetime) -> Facts:
    """List the key facts about a run; unknown ones are omitted."""
    plan = value_at(record.store, "plan") or {}
    documents = value_at(record.corpus, "documents") or {}
    evaluated = [dictionary.evaluation for dictionary in record.dictionaries if dictionary.evaluation]
    known: list[tuple[str, str | None]] = [
        ("Subject model", _subject_name(plan.get("subject"))),
        ("Hookpoints", ", ".join(f"{name} ({width:,} wide)" for name, width in plan.get("hookpoints", {}).items()) or None),
        ("Text", text_of(record) if record.corpus else None),
        ("Documents", f"{documents['train']:,} to train, {documents['held_out']:,} held out" if {"train", "held_out"} <= documents.keys() else None),
        ("Activations", f"{_rows(record):,} as {plan['dtype']}" if plan else None),
        ("Evaluated on", f"{evaluated[0]['num_tokens']:,} tokens" if evaluated else None),
        ("Interpreted on", _interpreted_on(record.sources)),
        ("Whole run", duration(summary["wall_seconds"]) if summary.get("wall_seconds") else None),
        ("Peak memory", f"{summary['peak_rss_bytes'] / 2**30:.2f} GiB" if summary.get("peak_rss_bytes") else None),
        ("Report written", written.strftime("%-d %B %Y, %H:%M %Z")),
    ]
    return [(label, value) for label, value in known if value]


def measured_on(record: RunRecord) -> str:
    """On how much text the figures were measured."""
    for dictionary in record.dictionaries:
        if dictionary.evaluation:
            report = dictionary.evaluation
            return (
                f"Measured on {report['num_sequences']:,} held-out sequences: {report['num_tokens']:,} tokens, {report['num_predictions']:,} "
                "predictions of a next token. Special tokens (the BOS at the start of every sequence among them) are left out."
            )
    return ""


def scoring_text() -> str:
    """Describe how explanations are made and scored."""
    return (
        "An explanation is made without a language model: a short list of token patterns, learned from the training text, that predicts how "
        "strongly a feature fires. Its score is the rank correlation (Spearman) of predicted and true activations on examples of held-out text; "
        "0 is no better than a constant. Controls (single neurons or coordinates too) are explained from the same amount of text in the same way. "
        "Features that fire on a single token are easy to explain, so medians are given with and without them."
    )


def origin(record: RunRecord, summary: Json) -> Facts:
    """Digests, versions and seeds."""
    known: list[tuple[str, Any]] = [
        ("Subject digest", _digest(value_at(record.store, "plan.subject_digest"))),
        ("Corpus digest", _digest(value_at(record.corpus, "digest"))),
        ("Store digest", _digest(value_at(record.store, "digest"))),
    ]
    for dictionary in record.dictionaries:
        result = dictionary.result or {}
        steps = f"{result['steps']:,} steps, {result['vectors']:,} vectors, {duration(result['wall_seconds'])}" if "steps" in result else None
        known.append((f"Training of {dictionary.name}", steps))
        window = result.get("dead_window_vectors")
        known.append((f"Dead window of {dictionary.name}", f"the last {window:,} vectors" if window else None))
        known.append((f"Weights of {dictionary.name}", _digest(value_at(dictionary.config, "weights.sha256"))))
    known += [(f"Version of {name}", version) for name, version in sorted((summary.get("versions") or {}).items())]
    known += [(f"Seed: {name}", str(seed)) for name, seed in sorted((summary.get("seeds") or {}).items())]
    return [(label, value) for label, value in known if value]


def hookpoint_of(dictionary: TrainedDictionary) -> str | None:
    """The hookpoint a dictionary was trained on."""
    for known in (value_at(dictionary.config, "metadata.hookpoint"), value_at(dictionary.evaluation, "hookpoint")):
        if known:
            return str(known)
    return None


def duration(seconds: float) -> str:
    """A time in the two units that matter."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _subject_name(model: str | None) -> str | None:
    return "the embedded one-layer transformer" if model == "embedded" else model


def _found(dictionary: TrainedDictionary) -> str:
    recovered, l0, dead = (
        shown(figure_of(dictionary, path), style) for path, style in (("loss_recovered_zero", "share"), ("l0", "short"), ("dead_fraction", "share"))
    )
    return (
        f"{dictionary.name} recovers {recovered} of the loss that zeroing the activation costs, with {l0} features firing on a token; "
        f"{dead} of its features are dead."
    )


def _explained(source: ExplainedSource, sources: list[ExplainedSource]) -> str:
    interval = shown_interval(value_at(source.summary, "explanation_score_interval"), "fixed")
    sure = f" (95 % interval {interval})" if interval else ""
    said = f"Explanations of {source.name} predict its features on held-out text with a median rank correlation of {_median(source)}{sure}"
    said += _beside(sources, None)
    # Alone, the median over all features would flatter whatever finds single tokens, as a dictionary of a model that learned nothing does.
    if len(source.scores(single_token=False)) and len(source.scores(single_token=True)):
        said += f"; of those that fire on several tokens, {_median(source, single_token=False)}{_beside(sources, False)}"
    return f"{said}."


def _beside(sources: list[ExplainedSource], single_token: bool | None) -> str:
    """The neurons' median, and that of the best explained of the other controls."""
    controls = [source for source in sources if source.control and len(source.scores(single_token))]
    neurons = [source for source in controls if source.name == "neurons"]
    others = [source for source in controls if source not in neurons]
    best = sorted(others, key=lambda source: -np.median(source.scores(single_token)))[:1]
    told = [f"{_median(source, single_token)} for {source.label}" for source in neurons + best]
    remark = ", the best of the other controls" if len(others) > 1 else ""
    return f", against {' and '.join(told)}{remark}" if told else ""


def _median(source: ExplainedSource, single_token: bool | None = None) -> str:
    return shown(float(np.median(source.scores(single_token))), "fixed")


def _rows(record: RunRecord) -> int:
    return sum(statistics["rows"] for statistics in (record.store or {}).get("statistics", {}).values())


def _interpreted_on(sources: list[ExplainedSource]) -> str | None:
    for source in sources:
        return f"{source.summary['explanation_tokens']:,} tokens to explain, {source.summary['scoring_tokens']:,} to score"
    return None


def _digest(digest: str | None) -> str | None:
    return digest[:16] if digest else None
