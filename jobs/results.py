"""The table of results that a run ends with, and that `monosem show` prints again."""

from typing import Any

from sae.concepts.report import REPORT_KEY, concepts_table, read_concepts
from sae.corpus.packing import TokenCorpus
from sae.interpretation.comparison import COMPARISON_KEY, comparison_table, read_comparison
from sae.interpretation.summary_record import read_summary
from sae.report.gather import gather
from sae.report.numbers import dollars
from sae.report.summary import summarise
from sae.report.verdicts import verdicts
from sae.run.layout import REPORT_KEY as PAGE_KEY
from sae.run.layout import SUMMARY_KEY
from sae.run.records import read_run_summary
from sae.storage import Place
from sae.units import NEURONS, shown_source

FEWEST_EXPLAINED = 0.5  # below this share of features explained, a run ends with a warning
OTHER_TEXT = "other_text"


def results_table(run: Place) -> list[str]:
    """The lines of the table: one row a dictionary, one a baseline; then differences, time, memory and where the report lies."""
    summary = read_run_summary(run).model_dump(mode="json")
    lines = [*warning_lines(run), *figures_table(summary, _hookpoint(run)), "", *interpretation_lines(run)]
    if summary["wall_seconds"] is not None and summary["peak_rss_bytes"] is not None:
        lines.append(f"{summary['wall_seconds']:.0f} s wall time, {summary['peak_rss_bytes'] / 2**30:.1f} GiB peak memory over all processes")
    return [*lines, f"report: {run.path(PAGE_KEY)}"]


def evaluation_lines(run: Place) -> list[str]:
    """The table of what was measured so far, without a report; nothing before an evaluation."""
    if not _evaluated(run):
        return []
    return [*warning_lines(run), *figures_table(summarise(run), _hookpoint(run)), "", *other_text_lines(run), *concept_lines(run)]


def warning_lines(run: Place) -> list[str]:
    """List what must be known before a figure of the table is quoted; nothing where nothing is wrong."""
    warnings = [f"WARNING: {verdict}" for verdict in verdicts(gather(run))]
    return [*warnings, ""] if warnings else []


def other_text_lines(run: Place) -> list[str]:
    """A table for each further text that dictionaries were measured on."""
    lines: list[str] = []
    for key in sorted({key.partition("/")[0] for key in run.child(OTHER_TEXT).list()}):
        place = run.child(OTHER_TEXT, key)
        if _evaluated(place):
            text = ", ".join(TokenCorpus(place.child("corpus")).manifest.config.text)
            lines += [f"on {text}:", *figures_table(summarise(place), _hookpoint(place)), ""]
    return lines


def latest_lines(run: Place) -> list[str]:
    """The table of results, from the report where it holds all that was measured since; nothing before an evaluation."""
    if not run.exists(SUMMARY_KEY):
        return evaluation_lines(run)
    reported = {entry.name for entry in read_run_summary(run).dictionaries if entry.l0 is not None}
    if missing := sorted(_evaluated(run) - reported):
        return [*evaluation_lines(run), f"the report lacks {', '.join(missing)}: run `monosem report` again"]
    return [*results_table(run), *other_text_lines(run), *concept_lines(run)]


def figures_table(summary: dict[str, Any], hookpoint: str) -> list[str]:
    """One row a dictionary, one a baseline, under a header; `hookpoint` is that of the baselines."""
    columns = ("dictionary", "L0", "FVU", "loss recovered (zero)", "(mean)", "dead", "explanation score")
    rows = [columns]
    for entry in summary["dictionaries"]:
        low, high = entry["loss_recovered_zero_interval"] or (None, None)
        recovered = f"{_number(entry['loss_recovered_zero'])}" + (f" [{_number(low)}, {_number(high)}]" if low is not None else "")
        score = _score(entry)
        rows.append(
            (
                f"{entry['name']} {entry['d_in']}→{entry['d_sae']}", _number(entry["l0"], 1), _number(entry["fvu"]), recovered,
                _number(entry["loss_recovered_mean"]), _percent(entry["dead_fraction"]), score,
            )
        )  # fmt: skip
    rows += [(shown_source(name, hookpoint), "", "", "", "", "", _score(entry)) for name, entry in summary["baselines"].items()]
    widths = [max(len(row[column]) for row in rows) for column in range(len(columns))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("─" * width for width in widths))
    return lines


def concept_lines(run: Place) -> list[str]:
    """The best detectors of each label beside the neurons'; nothing before concepts were detected."""
    place = run.child("concepts")
    return [concepts_table(read_concepts(place)), ""] if place.exists(REPORT_KEY) else []


def comparison_lines(run: Place) -> list[str]:
    """Say which source is explained better than which, as far as the noise allows; nothing before the interpretation."""
    place = run.child("interpretation")
    if not place.exists(COMPARISON_KEY):
        return []
    return comparison_table(read_comparison(place).model_dump(mode="json")["rows"], _hookpoint(run))


def explanation_lines(run: Place) -> list[str]:
    """Explanations, questions, tokens and money of the language model, and a warning where it explained little; nothing where none was asked."""
    place = run.child("interpretation")
    sources = [key.partition("/")[0] for key in place.list() if key.endswith(f"/{SUMMARY_KEY}") and key.count("/") == 1]
    found = [read_summary(place.child(source)).language_model for source in sources]
    asked = [words.model_dump(mode="json") for words in found if words is not None]
    if not asked:
        return []
    explainers = [explainer for words in asked for explainer in words["explainers"].values()]
    explained, wanted = (sum(explainer[name] for explainer in explainers) for name in ("num_explained", "num_features"))
    total = {name: sum(words[name] for words in asked) for name in ("requests", "prompt_tokens", "reply_tokens", "cost", "num_items", "num_unread")}
    lines = [
        f"language model: {explained:,} of {wanted:,} explanations, {total['requests']:,} requests, {total['prompt_tokens']:,} tokens sent and "
        f"{total['reply_tokens']:,} received, {dollars(total['cost'])}"
    ]
    if wanted and explained < wanted * FEWEST_EXPLAINED:
        lines.append(f"WARNING: {wanted - explained:,} of {wanted:,} explanations could not be read: see explanation_outcome, or use another model")
    if total["num_unread"]:
        lines.append(f"{total['num_unread']:,} of {total['num_items']:,} answers could not be read; they are left out of the scores")
    return [*lines, ""]


def interpretation_lines(run: Place) -> list[str]:
    """The end of `interpret`: comparisons of the scores, then the language model's work."""
    return [*comparison_lines(run), *explanation_lines(run)]


def _hookpoint(run: Place) -> str:
    """Where the baselines of a run were interpreted; the empty string before they were."""
    place = run.child("interpretation", NEURONS)
    return read_summary(place).hookpoint if place.exists(SUMMARY_KEY) else ""


def _evaluated(run: Place) -> set[str]:
    return {key.removesuffix(".json") for key in run.child("evaluation").list() if key.endswith(".json") and "/" not in key}


def _score(entry: dict[str, Any]) -> str:
    low, high = entry["explanation_score_interval"] or (None, None)
    median = _number(entry["explanation_score_median"])
    return median if low is None else f"{median} [{_number(low)}, {_number(high)}]"


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"
