"""The report itself: what was gathered becomes one HTML file that loads nothing.

Escaping: the template escapes every value (token texts and explanations come from arbitrary text), features travel compressed, in letters
that cannot close a script element, and reach the page as text nodes, and the page's content security policy runs no script but the one whose
digest it names. Only the drawings of `plots` and the files of this directory enter as they are.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from sae.errors import CorruptObjectError, InputError
from sae.report.breakdowns import breakdown_drawings, worst_predictions
from sae.report.charts import cross_entropy, density_histograms, score_distributions
from sae.report.comparisons import comparisons
from sae.report.concept_table import concept_table
from sae.report.features import BrowserConfig, compressed, feature_data
from sae.report.gather import Json, RunRecord, gather
from sae.report.glossary import glossary
from sae.report.held_out import COLUMNS, held_out_rows
from sae.report.numbers import SCORE_COLUMNS, groups_of_numbers, score_rows
from sae.report.people import People, people_section
from sae.report.script import own_file, page_script, script_digest
from sae.report.story import facts, findings, heading, lead, measured_on, origin, scoring_text
from sae.report.summary import summarise
from sae.report.training_charts import training_page
from sae.report.verdicts import verdicts
from sae.report.vocabulary import run_vocabulary
from sae.report.words import words_table
from sae.run.layout import REPORT_KEY
from sae.storage import Place
from sae.visible_text import visible

Judged = tuple[People | None, str]

logger = logging.getLogger(__name__)


def write_report(
    run: Place | str,
    summary: Json | None = None,
    output_key: str = REPORT_KEY,
    token_texts: Sequence[str] | None = None,
    browser: BrowserConfig | None = None,
    written: datetime | None = None,
) -> None:
    """Make the report of a run from what its directory holds; stages that have not run are named as missing.

    Args:
        run: the run directory: a place, or its path or URL.
        summary: what `summarise` says of the run, of which the report shows time, memory, versions and seeds; by default it is made here.
        output_key: where in it the report goes.
        token_texts: the text of every token of the subject's vocabulary; by default as `run_vocabulary` finds them. Where it finds none, tokens
            show as their numbers, and the report says so.
        browser: how many features travel with the report, and how much of each.
        written: the time to date it with; by default now. The report is the same bytes for the same run and time.

    Raises:
        InputError: the run holds nothing that could be shown, or something damaged; or the text of its tokens is unknown and an older report
            would be lost.
    """
    run = run if isinstance(run, Place) else Place(run)
    record = gather(run)
    texts, not_shown = (token_texts, "") if token_texts is not None or not record.sources else _token_texts(run, record, output_key)
    people, not_compared = people_section(run, record)
    said = people.said if people else None
    data = feature_data(run, record.sources, texts, browser or BrowserConfig(), said) if record.sources else None
    page = render(record, summary or summarise(run), data, written or datetime.now(UTC), (people, not_compared), not_shown)
    run.put(output_key, page.encode())


def _token_texts(run: Place, record: RunRecord, output_key: str) -> tuple[Sequence[str] | None, str]:
    """The text of every token, or why it is unknown."""
    try:
        return run_vocabulary(run, record), ""
    except CorruptObjectError:
        raise
    except InputError as error:
        if run.exists(output_key):
            raise InputError(f"{run.path(output_key)} is kept as it is, since a new report would show numbers: {error}") from None
        logger.warning("the report shows tokens as their numbers: %s", error)
        return None, str(error)


def render(record: RunRecord, summary: Json, data: str | None, written: datetime, people: Judged = (None, ""), not_shown: str = "") -> str:
    """The page as text.

    Args:
        record: what the run directory holds.
        summary: time, memory, versions and seeds are taken from it.
        data: the packed features, or None where nothing was interpreted.
        written: the time to date it with.
        people: what people said, or why it is not compared.
        not_shown: why tokens show as numbers; empty where they show as text.
    """
    script = page_script(with_features=data is not None)
    groups = groups_of_numbers(record)
    density = density_histograms(record)
    context = {
        "title": f"{record.name}: Monosem report",
        "name": record.name,
        "heading": heading(record),
        "lead": lead(record),
        "verdicts": verdicts(record),
        "findings": findings(record),
        "facts": facts(record, summary, written),
        "dictionaries": record.dictionaries,
        "groups": groups,
        "measured_on": measured_on(record),
        "cross_entropy": cross_entropy(record),
        "training": training_page(record),
        "events": events_table(record),
        "breakdowns": breakdown_drawings(record),
        "worst": worst_predictions(record),
        "concepts": concept_table(record),
        "density": density,
        "scores": score_distributions(record),
        "score_columns": SCORE_COLUMNS,
        "score_rows": score_rows(record),
        "held_out_columns": COLUMNS,
        "held_out_rows": held_out_rows(record),
        "comparisons": comparisons(record),
        "words": words_table(record),
        "people": people[0],
        "not_compared": people[1],
        "glossary": glossary(),
        "scoring_text": scoring_text(),
        "missing": missing(record, bool(groups), bool(density)),
        "not_shown": f"Tokens show as numbers: {not_shown}." if not_shown else "",
        "origin": origin(record, summary),
        "configs": [("The resolved configuration", json.dumps(record.config, indent=1, ensure_ascii=False))] if record.config else [],
        "feature_data": compressed(data) if data else None,
        "script": Markup(script),
        "script_digest": script_digest(script),
        "css": Markup(own_file("report.css")),
    }
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["visible"] = visible
    return environment.from_string(own_file("report.html.j2")).render(context)


@dataclass(frozen=True)
class Events:
    """The table of what happened during training."""

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def events_table(record: RunRecord) -> Events:
    """One row per resampling, with how many of its features were alive afterwards."""
    rows: list[tuple[str, ...]] = []
    for dictionary in record.dictionaries:
        revived = {event["resampled_at_step"]: event for event in dictionary.events if event["event"] == "after_resampling"}
        for event in (event for event in dictionary.events if event["event"] == "resampled"):
            numbers = (f"{event['vectors']:,}", f"{event['step']:,}", f"{event['dead']:,}", f"{event['resampled']:,}")
            rows.append((dictionary.name, *numbers, _outcome(event, revived.get(event["step"]))))
    return Events(("dictionary", "vectors seen", "step", "dead", "resampled", "outcome"), rows)


def _outcome(resampled: Json, after: Json | None) -> str:
    if after is None:
        return "–"
    return f"{after['alive']:,} of {after['resampled']:,} alive after {after['vectors'] - resampled['vectors']:,} vectors"


def missing(record: RunRecord, has_numbers: bool, has_density: bool) -> dict[str, str]:
    """Write the text in the place of each section whose stage has not run."""
    unevaluated = [dictionary.name for dictionary in record.dictionaries if dictionary.evaluation is None]
    uninterpreted = [each.name for each in record.dictionaries if each.name not in {source.name for source in record.sources}]
    unlogged = [dictionary.name for dictionary in record.dictionaries if not dictionary.log]
    return {
        "evaluation": _not_yet("evaluated", unevaluated, "monosem evaluate"),
        "training": _not_yet("logged while training", unlogged, "monosem train"),
        "density": "" if has_density else "Densities are measured by the evaluation, which has not run.",
        "interpretation": _not_yet("interpreted", uninterpreted, "monosem interpret") if record.sources or uninterpreted else "",
        "features": "" if record.sources else "No source was interpreted, so there are no features to look through. `monosem interpret` makes them.",
    }


def _not_yet(done: str, names: list[str], command: str) -> str:
    if not names:
        return ""
    return f"Not {done}: {', '.join(names)}. `{command}` does it; make the report again afterwards."
