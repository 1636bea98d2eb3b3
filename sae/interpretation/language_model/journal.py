"""What is kept of explanations in words while they are made: replies as they come, rows as features are finished, tables in the end.

One journal object per feature holds every reply about it, by the digest of what was asked, and its rows once it is done. So whoever goes on
after a budget or a dead endpoint pays for no answer twice, and after a kill only for those of its last seconds.
"""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sae.errors import PlanError
from sae.interpretation.language_model.exchange import Reply
from sae.interpretation.language_model.records import EXPLANATIONS_KEY, JOURNALS, PLAN_KEY, REPLIES_KEY, REPLIES_SCHEMA, SCHEMA
from sae.storage import Place, sha256_hex


@dataclass
class Journal:
    """The replies about one feature, and its rows once there are some."""

    feature: int
    replies: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows: list[dict[str, Any]] | None = None

    def keep(self, digest: str, purpose: str, reply: Reply) -> None:
        """Keep a reply."""
        self.replies[digest] = asdict(reply) | {"purpose": purpose}

    def find(self, digest: str) -> Reply | None:
        """The reply to a request, if it was asked before."""
        found = self.replies.get(digest)
        return Reply(**{name: value for name, value in found.items() if name != "purpose"}) if found else None


class ExplanationDirectory:
    """The records of one source's explanations in words.

    Args:
        place: of the source.
        settings: what determines an explanation.

    Raises:
        PlanError: the source was explained with other settings, or its index was made anew; the message names the differing ones.
    """

    def __init__(self, place: Place, settings: dict[str, Any]) -> None:
        self.place = place
        self._plan: dict[str, Any] = json.loads(json.dumps(settings | {"index": sha256_hex(place.get("plan.json"))}))
        self._check_plan()
        self.finished = set(self._table(EXPLANATIONS_KEY, SCHEMA).column("feature").to_pylist())
        self._journals = {int(key.rpartition("/")[2].removesuffix(".json")): key for key in place.list(JOURNALS)}
        self.finished |= {feature for feature, key in self._journals.items() if place.get_json(key)["rows"] is not None}

    def begin(self) -> None:
        """Write the plan, before anything else is."""
        if not self.place.exists(PLAN_KEY):
            self.place.put_json(PLAN_KEY, self._plan)

    def journal(self, feature: int) -> Journal:
        """The journal of a feature, empty if there is none."""
        return Journal(**self.place.get_json(self._journals[feature])) if feature in self._journals else Journal(feature)

    def write(self, journal: Journal) -> None:
        """Put a journal in the place of its former state."""
        key = f"{JOURNALS}/{journal.feature:08d}.json"
        self.place.put_json(key, asdict(journal))
        self._journals[journal.feature] = key
        if journal.rows is not None:
            self.finished.add(journal.feature)

    def compact(self) -> pa.Table:
        """Move what is finished from journals into the tables; returns the rows of all explanations."""
        done = [journal for feature in sorted(self._journals) if (journal := self.journal(feature)).rows is not None]
        explanations, replies = self._table(EXPLANATIONS_KEY, SCHEMA), self._table(REPLIES_KEY, REPLIES_SCHEMA)
        # A process that was killed below left features in both: what the table has is not added again.
        there, replied = set(explanations.column("feature").to_pylist()), set(replies.column("feature").to_pylist())
        rows = [row for journal in done if journal.feature not in there for row in journal.rows or ()]
        asked = [
            {"feature": journal.feature, "request": digest, **reply}
            for journal in done
            if journal.feature not in replied
            for digest, reply in journal.replies.items()
        ]
        merged = _sorted(pa.concat_tables([explanations, pa.Table.from_pylist(rows, SCHEMA)]), "explainer")
        if rows or asked or not self.place.exists(EXPLANATIONS_KEY):
            self._put(REPLIES_KEY, _sorted(pa.concat_tables([replies, pa.Table.from_pylist(asked, REPLIES_SCHEMA)]), "request"))
            self._put(EXPLANATIONS_KEY, merged)
        for journal in done:
            self.place.delete(self._journals.pop(journal.feature))
        return merged

    def _check_plan(self) -> None:
        found = self.place.get_json(PLAN_KEY) if self.place.exists(PLAN_KEY) else self._plan
        differing = [f"{key} (there {_short(found.get(key))}, now {_short(value)})" for key, value in self._plan.items() if found.get(key) != value]
        if differing:
            names = ", ".join((PLAN_KEY, EXPLANATIONS_KEY, REPLIES_KEY, f"{JOURNALS}/"))
            raise PlanError(
                f"{self.place.url} was explained by a language model with another plan: {'; '.join(differing)}. "
                f"Choose another output, or delete {names} there"
            )

    def _table(self, key: str, schema: pa.Schema) -> pa.Table:
        if not self.place.exists(key):
            return schema.empty_table()
        return pq.read_table(pa.BufferReader(self.place.open_buffer(key))).cast(schema)

    def _put(self, key: str, table: pa.Table) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        self.place.put(key, sink.getvalue())


def _sorted(table: pa.Table, then: str) -> pa.Table:
    return table.sort_by([("feature", "ascending"), (then, "ascending")]).combine_chunks()


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"
