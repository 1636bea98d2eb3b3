"""The directory of one source: begun with its plan, filled in any order, finished by its summary (`records` shows it)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sae.config import Config
from sae.errors import CorruptObjectError, PlanError
from sae.interpretation.records import EXAMPLES_SCHEMA, FEATURES_SCHEMA, Budget
from sae.interpretation.sources.scratch import SCRATCH, get_table, put_table
from sae.interpretation.sources.sources import SourceSpec
from sae.interpretation.summary import summarise
from sae.interpretation.summary_record import SourceSummary, put_summary, read_summary
from sae.records import check_name, check_objects, digests_of, get_record, put_record
from sae.run.layout import SUMMARY_KEY
from sae.storage import Place
from sae.tables import parquet_table

PLAN_KEY = "plan.json"
FEATURES_KEY, EXAMPLES_KEY = "features.parquet", "examples.parquet"
FIRINGS = f"{SCRATCH}/firings"
LOGITS_KEY = f"{SCRATCH}/logits.arrow"
SIMILAR_KEY = f"{SCRATCH}/similar.arrow"


class SourcePlan(Config):
    """All that determines the records of a source."""

    name: str
    kind: str
    source_digest: str
    hookpoint: str
    subject_digest: str
    corpus_digest: str
    store_digest: str
    budget: Budget


def start_source(place: Place, plan: SourcePlan) -> None:
    """Write the plan, or check that it is the one the directory was begun with.

    Raises:
        PlanError: the directory holds the work of another plan; the message names the differing fields.
        InputError, CorruptObjectError: the plan there was changed.
    """
    if not place.exists(PLAN_KEY):
        put_record(place, PLAN_KEY, plan)
        return
    found, wanted = (_flat(each.model_dump(mode="json")) for each in (get_record(place, PLAN_KEY, SourcePlan), plan))
    differing = [f"{key} (there {_short(found.get(key))}, now {_short(value)})" for key, value in wanted.items() if found.get(key) != value]
    if differing:
        raise PlanError(f"{place.url} was interpreted with another plan: {'; '.join(differing)}. Choose another output, or delete it")


def firings_key(used_for: str, chunk: int) -> str:
    """Where the firings over a run of sequences lie."""
    return f"{FIRINGS}/{used_for}/{chunk:06d}.arrow"


def write_part(place: Place, first_row: int, features: pa.Table, examples: pa.Table) -> None:
    """Write the records of a finished range of features; the second object says that both are there."""
    put_table(place, _part_key(first_row, "examples"), examples)
    put_table(place, _part_key(first_row, "features"), features)


def has_part(place: Place, first_row: int) -> bool:
    """Say whether the range that begins with this row is finished."""
    return place.exists(_part_key(first_row, "features"))


def finish_source(place: Place, spec: SourceSpec, plan: SourcePlan, first_rows: list[int], text: dict[str, Any]) -> dict[str, Any]:
    """Put the parts together, write the summary, remove the scratch; returns the summary.

    Args:
        place: of the source.
        spec: the source.
        plan: its plan.
        first_rows: which ranges there are.
        text: figures of the texts, for the summary.
    """
    features = pa.concat_tables([FEATURES_SCHEMA.empty_table(), *(get_table(place, _part_key(row, "features")) for row in first_rows)])
    place.put(FEATURES_KEY, _parquet([features], FEATURES_SCHEMA))
    place.put(EXAMPLES_KEY, _parquet((get_table(place, _part_key(row, "examples")) for row in first_rows), EXAMPLES_SCHEMA))
    summary = summarise(features.combine_chunks(), spec, plan.hookpoint, plan.budget) | text
    written = put_summary(place, summary | {"tables": digests_of(place, (PLAN_KEY, FEATURES_KEY, EXAMPLES_KEY))})
    clear_scratch(place)
    return written


def finished_source(place: Place, plan: SourcePlan) -> dict[str, Any]:
    """The summary of a finished source, proved with its plan and tables.

    Raises:
        InputError: a field is missing, unknown or of a wrong type.
        CorruptObjectError: it, the plan or a table was changed or lost after it was written, or is of another source or plan.
    """
    summary = read_summary(place)
    check_objects(place, {key: summary.tables.get(key, "none") for key in (PLAN_KEY, FEATURES_KEY, EXAMPLES_KEY)}, place.path(SUMMARY_KEY))
    if (summary.kind, summary.config) != (plan.kind, plan.budget):
        raise CorruptObjectError(f"{place.path(SUMMARY_KEY)} is of another plan than {PLAN_KEY}. Delete {place.url} and interpret again")
    return summary.model_dump(mode="json")


def read_source(place: Place, dictionary_digest: str | None = None) -> SourceSummary:
    """The summary of a source, proved with its plan; its tables are proved where they are read.

    Args:
        place: of the source.
        dictionary_digest: of the dictionary that has its name, if there is one.

    Raises:
        InputError: a field is missing, unknown or of a wrong type.
        CorruptObjectError: summary or plan was changed after it was written, or is of another source or dictionary.
    """
    summary, where = read_summary(place), place.path(PLAN_KEY)
    check_objects(place, {PLAN_KEY: summary.tables.get(PLAN_KEY, "none")}, place.path(SUMMARY_KEY))
    plan = get_record(place, PLAN_KEY, SourcePlan)
    check_name(plan.name, summary.source, where)
    if dictionary_digest is not None and plan.source_digest != dictionary_digest:
        raise CorruptObjectError(
            f"{where} is of a dictionary with the digest {plan.source_digest[:12]!r}, and {plan.name!r} has {dictionary_digest[:12]!r}. "
            f"Delete {place.url} and interpret again, or use the right dictionary"
        )
    return summary


def features_table(place: Place, tables: Mapping[str, str], features: Sequence[int] | None = None) -> pa.Table:
    """Read `features.parquet` of a source, proved; with `features`, the rows of those alone.

    Args:
        place: of the source.
        tables: digests of its summary.
        features: by their index in the source.

    Raises:
        InputError, CorruptObjectError: as `sae.tables.parquet_table`.
    """
    return parquet_table(place, FEATURES_KEY, tables, place.path(SUMMARY_KEY), FEATURES_SCHEMA, features)


def examples_table(place: Place, tables: Mapping[str, str], features: Sequence[int] | None = None) -> pa.Table:
    """Read `examples.parquet` of a source, proved; arguments and errors as of `features_table`."""
    return parquet_table(place, EXAMPLES_KEY, tables, place.path(SUMMARY_KEY), EXAMPLES_SCHEMA, features)


def clear_scratch(place: Place) -> None:
    """Remove what was only needed on the way."""
    for key in place.list(SCRATCH):
        place.delete(key)


def feature_ranges(counts: np.ndarray, max_features: int, max_firings: int) -> list[tuple[int, int]]:
    """Cut rows into ranges `[first, last + 1)` of bounded size; a row with more firings than allowed is a range by itself.

    Args:
        counts: firings of each row.
        max_features: rows in a range.
        max_firings: firings in a range.
    """
    ranges, first, held = list[tuple[int, int]](), 0, 0
    for row, count in enumerate(counts.tolist()):
        if row > first and (row - first >= max_features or held + count > max_firings):
            ranges.append((first, row))
            first, held = row, 0
        held += count
    return [*ranges, (first, len(counts))] if len(counts) else []


def _parquet(tables: Any, schema: pa.Schema) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    # One row group a range: a reader who wants one feature skips the others by their statistics.
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table)
    return sink.getvalue()


def _part_key(first_row: int, what: str) -> str:
    return f"{SCRATCH}/parts/{first_row:08d}-{what}.arrow"


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:16] + "…" + text[-1]
