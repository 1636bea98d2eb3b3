"""The directory of one source: begun with its plan, filled in any order, finished by its summary (`records` shows it)."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sae.config import Config
from sae.errors import PlanError
from sae.interpretation.records import EXAMPLES_SCHEMA, FEATURES_SCHEMA, Budget
from sae.interpretation.sources import SourceSpec
from sae.interpretation.summary import summarise
from sae.storage import Place

PLAN_KEY, SUMMARY_KEY = "plan.json", "summary.json"
FEATURES_KEY, EXAMPLES_KEY = "features.parquet", "examples.parquet"
SCRATCH = "scratch"
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
    """
    if not place.exists(PLAN_KEY):
        place.put_json(PLAN_KEY, plan.model_dump(mode="json"))
        return
    found, wanted = (_flat(each) for each in (place.get_json(PLAN_KEY), plan.model_dump(mode="json")))
    differing = [f"{key} (there {_short(found.get(key))}, now {_short(value)})" for key, value in wanted.items() if found.get(key) != value]
    if differing:
        raise PlanError(f"{place.url} was interpreted with another plan: {'; '.join(differing)}. Choose another output, or delete it")


def firings_key(used_for: str, chunk: int) -> str:
    """Where the firings over a run of sequences lie."""
    return f"{FIRINGS}/{used_for}/{chunk:06d}.arrow"


def put_table(place: Place, key: str, table: pa.Table) -> None:
    """Write a table as one Arrow IPC file."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    place.put(key, sink.getvalue())


def get_table(place: Place, key: str) -> pa.Table:
    """Read a table written by `put_table`."""
    return pa.ipc.open_file(place.open_buffer(key)).read_all()


def write_part(place: Place, first_row: int, features: pa.Table, examples: pa.Table) -> None:
    """Write the records of a finished range of features; the second object says that both are there."""
    put_table(place, _part_key(first_row, "examples"), examples)
    put_table(place, _part_key(first_row, "features"), features)


def has_part(place: Place, first_row: int) -> bool:
    """Whether the range that begins with this row is finished."""
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
    place.put_json(SUMMARY_KEY, summary)
    clear_scratch(place)
    return summary


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
