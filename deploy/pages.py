"""Write the pages of docs/ that repeat what the code declares: configuration, metrics and run directory. Run by `make docs-pages`."""

import re
import types
import typing
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import BaseModel

from jobs.config import RunConfig
from jobs.keys import section_lines
from sae.dictionary_record import DictionaryRecord
from sae.evaluation.report import EvaluationReport
from sae.interpretation.comparison import ComparisonRecord, ComparisonRow
from sae.interpretation.records import EXAMPLES_SCHEMA, FEATURES_SCHEMA
from sae.interpretation.summary_record import SourceSummary
from sae.report.glossary import glossary_markdown
from sae.run import layout
from sae.run.records import DictionaryFigures, ExplainedFigures, Machine, RunStages, RunSummary, StageCost
from sae.training.records import LogRow, TrainingResult
from services.monitoring.metrics import METRICS

DOCS = Path(__file__).parents[1] / "docs"
KEY_LINE = re.compile(r"    (?P<key>\S+) = (?P<default>.*?) {2,}(?P<type>\S+): (?P<meaning>.*)")
GROUP_LINE = re.compile(r"  (?P<group>\S+)…  (?P<meaning>.*)", re.DOTALL)
MADE = "<!-- made by `make docs-pages`: change the code, not this page -->"
RECORDS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("stages.json", RunStages),
    ("stages.json, each stage", StageCost),
    ("stages.json, machine", Machine),
    ("summary.json", RunSummary),
    ("summary.json, each dictionary", DictionaryFigures),
    ("summary.json, each baseline", ExplainedFigures),
    ("dictionaries/NAME/config.json", DictionaryRecord),
    ("dictionaries/NAME/result.json", TrainingResult),
    ("dictionaries/NAME/training.jsonl, each row", LogRow),
    ("evaluation/NAME.json", EvaluationReport),
    ("interpretation/SOURCE/summary.json", SourceSummary),
    ("interpretation/comparison.json", ComparisonRecord),
    ("interpretation/comparison.json, each row", ComparisonRow),
)
TABLES: tuple[tuple[str, pa.Schema], ...] = (
    ("interpretation/SOURCE/features.parquet", FEATURES_SCHEMA),
    ("interpretation/SOURCE/examples.parquet", EXAMPLES_SCHEMA),
)


def cell(text: str) -> str:
    """A text as the cell of a table: one line, no bar of its own."""
    return " ".join(text.split()).replace("|", "\\|")


def code(text: str) -> str:
    """A text in the type of code, in a cell."""
    return f"`{cell(text)}`" if text else ""


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """A Markdown table; its cells are Markdown already."""
    return [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}", *(re.sub(r" {2,}", " ", f"| {' | '.join(row)} |") for row in rows), ""]


def configuration() -> str:
    """Every key, by section and group, from the same lines as `monosem keys`."""
    lines = [
        "# Configuration",
        "",
        MADE,
        "",
        "Every key with its type, default and meaning. A stage takes `-c FILE` (or the name of a ready file) and `key=value` on the command line.",
        "`monosem keys SECTION` prints the same, `monosem config -c FILE` the resolved file, `monosem keys --schema` a JSON schema for editors.",
        "",
    ]
    for section in RunConfig.model_fields:
        lines += [f"## {section}", ""]
        rows: list[tuple[str, ...]] = []
        for line in section_lines(section):
            if found := KEY_LINE.fullmatch(line):
                rows.append((code(found["key"]), cell(found["type"]), code(found["default"]), cell(found["meaning"])))
            elif group := GROUP_LINE.fullmatch(line):
                lines += _keys(rows)
                rows = []
                lines += [f"**`{group['group'].rstrip('.')}`** – {' '.join(group['meaning'].split())}", ""]
            else:
                raise AssertionError(f"a line of `monosem keys` that this page cannot read: {line!r}")
        lines += _keys(rows)
    return "\n".join(lines).rstrip() + "\n"


def _keys(rows: list[tuple[str, ...]]) -> list[str]:
    return table(("key", "type", "default", "meaning"), rows) if rows else []


def metrics() -> str:
    """The numbers of a report, and the metrics that a run exports to Prometheus."""
    exported = [(code(each.name), each.kind, code(", ".join(each.labels)), cell(each.help)) for each in METRICS]
    lines = [
        "# Metrics",
        "",
        MADE,
        "",
        "Every number of a report with its formula and source, and every metric that a run exports.",
        "",
        "## Numbers of the report",
        "",
        glossary_markdown(),
        "## Metrics for Prometheus",
        "",
        "A run serves them on loopback while it works; its first log line names the address. `cluster.metrics_port` fixes the port.",
        "",
        *table(("metric", "kind", "labels", "meaning"), exported),
    ]
    return "\n".join(lines).rstrip() + "\n"


def type_name(annotation: Any) -> str:
    """A type without modules and bounds.

    Choices are joined by "or": Markdown processors disagree about a bar in the code of a table.
    """
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return type_name(parts[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(type_name(part) for part in parts))
    if origin is typing.Literal:
        return " or ".join(map(repr, parts))
    if origin is not None:
        return f"{origin.__name__}[{', '.join(map(type_name, parts))}]"
    return "None" if annotation is type(None) else getattr(annotation, "__name__", str(annotation))


def run_directory() -> str:
    """The tree of a run directory, and the fields of its records and tables."""
    tree = (layout.__doc__ or "").partition("::\n\n")[2].rstrip().splitlines()
    files = [re.split(r" {2,}", line.strip().removeprefix("<run>/"), maxsplit=1) for line in tree]
    lines = [
        "# Run directory",
        "",
        MADE,
        "",
        "Files that the stages leave, and their fields. `sae.Run` reads them in Python ([Python](python.md)); the format of the store has",
        "[a page of its own](store.md). JSON objects carry a digest over all their fields: a changed file is refused.",
        "",
        *table(("file", "content"), [(code(path), cell(says)) for path, says in files]),
        "## Records",
        "",
    ]
    for path, record in RECORDS:
        says = " ".join((record.__doc__ or "").split("\n\n")[0].split())
        fields = [(code(name), code(type_name(field.annotation)), cell(field.description or "")) for name, field in record.model_fields.items()]
        lines += [f"### {path}", "", *([says, ""] if says[-2:] != "`." else []), *table(("field", "type", "meaning"), fields)]
    lines += ["## Tables", ""]
    for path, schema in TABLES:
        lines += [f"### {path}", "", *table(("column", "type"), [(code(field.name), code(str(field.type))) for field in schema])]
    return "\n".join(lines).rstrip() + "\n"


PAGES = {"configuration.md": configuration, "metrics.md": metrics, "run_directory.md": run_directory}


def main() -> None:
    """Write the pages."""
    for name, page in PAGES.items():
        (DOCS / name).write_text(page())


if __name__ == "__main__":
    main()
