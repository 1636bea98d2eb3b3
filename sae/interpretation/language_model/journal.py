"""Journal of explanations while they are made: replies as they come, rows as features are finished, tables in the end.

One journal object per feature holds every reply about it, by the digest of what was asked, and its rows once it is done. So a later run,
after a budget or a dead endpoint, pays for no answer twice, and after a kill only for those of its last second.

A reply that only says that the endpoint failed is no answer. A feature with such replies has rows, from what was answered, and keeps its
journal: the next run asks those questions again and makes its rows anew.
"""

import json
import re
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import NonNegativeFloat, NonNegativeInt

from sae.errors import CorruptObjectError, PlanError
from sae.interpretation.language_model.exchange import FINAL, Outcome, Reply, Request, is_divided
from sae.interpretation.language_model.records import EXPLANATIONS_KEY, JOURNALS, PLAN_KEY, REPLIES_KEY, REPLIES_SCHEMA, SCHEMA
from sae.records import Record, check_name, get_record
from sae.storage import Place, sha256_hex
from sae.storage.parquet_file import read_parquet

_JOURNAL_KEY = re.compile(rf"{JOURNALS}/([0-9]{{8,10}})\.json")


class KeptReply(Record):
    """A reply with what it was asked for."""

    purpose: str
    divided: bool
    outcome: Outcome
    text: str
    prompt_tokens: NonNegativeInt
    reply_tokens: NonNegativeInt
    cost: NonNegativeFloat


class JournalRecord(Record):
    """A journal as it is stored."""

    feature: NonNegativeInt
    replies: dict[str, KeptReply]
    rows: list[dict[str, Any]] | None


@dataclass
class Journal:
    """The replies about one feature, and its rows once there are some."""

    feature: int
    replies: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows: list[dict[str, Any]] | None = None

    def keep(self, request: Request, reply: Reply) -> None:
        """Keep a reply."""
        self.replies[request.digest] = asdict(reply) | {"purpose": request.purpose, "divided": is_divided(request, reply.outcome)}

    def find(self, digest: str) -> Reply | None:
        """The model's own answer to a request, if it gave one before."""
        found = self.replies.get(digest)
        if found is None or found["outcome"] not in FINAL:
            return None
        return Reply(**{name: value for name, value in found.items() if name not in ("purpose", "divided")})

    def forget_failures(self) -> None:
        """Leave only the model's own answers, before the others are asked for again; the rows that stand in the tables are made anew."""
        if not self.complete:
            self.rows = None
        self.replies = {digest: reply for digest, reply in self.replies.items() if reply["outcome"] in FINAL}

    @property
    def complete(self) -> bool:
        """Say whether there is nothing to ask again: rows, and every question answered, or asked in smaller pieces instead."""
        return self.rows is not None and all(reply["outcome"] in FINAL or reply["divided"] for reply in self.replies.values())


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
        self._digests: dict[str, list[str]] = {}
        """SHA-256 of each table; while tables are being replaced, of the old one and the new one."""
        self._check_plan()
        self._journals = {int(found[1]): key for key in place.list(JOURNALS) if (found := _JOURNAL_KEY.fullmatch(key))}
        self.finished = set(self._table(EXPLANATIONS_KEY, SCHEMA).column("feature").to_pylist()) - self._journals.keys()
        self.finished |= {feature for feature in self._journals if self.journal(feature).complete}

    def begin(self) -> None:
        """Write the plan, before anything else is."""
        if not self.place.exists(PLAN_KEY):
            self.place.put_sealed(PLAN_KEY, self._plan)

    def journal(self, feature: int) -> Journal:
        """The journal of a feature, empty if there is none.

        Raises:
            CorruptObjectError, InputError: it was changed after it was written, or belongs to another feature.
        """
        if feature not in self._journals:
            return Journal(feature)
        record = get_record(self.place, self._journals[feature], JournalRecord)
        check_name(str(record.feature), str(feature), self.place.path(self._journals[feature]))
        return Journal(**record.model_dump())

    def write(self, journal: Journal) -> None:
        """Replace the stored state of a journal."""
        key = f"{JOURNALS}/{journal.feature:08d}.json"
        self.place.put_sealed(key, asdict(journal))
        self._journals[journal.feature] = key
        if journal.complete:
            self.finished.add(journal.feature)

    def compact(self) -> pa.Table:
        """Move what is finished from journals into the tables; returns the rows of all explanations.

        A journal with questions to ask again stays, and the tables hold what it has so far.
        """
        done = [journal for feature in sorted(self._journals) if (journal := self.journal(feature)).rows is not None]
        rows = [row for journal in done for row in journal.rows or ()]
        asked = [{"feature": journal.feature, "request": digest, **reply} for journal in done for digest, reply in journal.replies.items()]
        # What the tables have of these features is of an earlier run, or of a process that was killed below.
        explanations, replies = (_without(self._table(key, schema), done) for key, schema in _TABLES.items())
        merged = _sorted(pa.concat_tables([explanations, pa.Table.from_pylist(rows, SCHEMA)]), "explainer")
        if done or not self.place.exists(EXPLANATIONS_KEY):
            every = _sorted(pa.concat_tables([replies, pa.Table.from_pylist(asked, REPLIES_SCHEMA)]), "request")
            self._put_tables({REPLIES_KEY: _parquet(every), EXPLANATIONS_KEY: _parquet(merged)})
        for journal in done:
            if journal.complete:
                self.place.delete(self._journals.pop(journal.feature))
        return merged

    def _check_plan(self) -> None:
        found = self.place.get_sealed(PLAN_KEY) if self.place.exists(PLAN_KEY) else self._plan
        self._digests = found.get("tables", {})
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
        data = self.place.open_buffer(key)
        try:
            table = read_parquet(data).cast(schema)
        except (pa.ArrowException, OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:120]
            raise CorruptObjectError(f"{self.place.path(key)} is damaged ({reason}). Copy it again, or delete it to explain anew") from None
        if sha256_hex(data) not in self._digests.get(key, ()):
            raise CorruptObjectError(
                f"{self.place.path(key)} is not what {PLAN_KEY} names: one of them was changed after it was written. "
                "Copy both again, or delete the table to explain anew"
            )
        return table

    def _put_tables(self, tables: dict[str, pa.Buffer]) -> None:
        """Write the tables. Their digests stand in the plan before and after, so that a process that is killed leaves none that is not proved."""
        digests = {key: sha256_hex(data) for key, data in tables.items()}
        self._write_digests({key: sorted({*self._digests.get(key, ()), digest}) for key, digest in digests.items()})
        for key, data in tables.items():
            self.place.put(key, data)
        self._write_digests({key: [digest] for key, digest in digests.items()})

    def _write_digests(self, digests: dict[str, list[str]]) -> None:
        self._digests = digests
        self.place.put_sealed(PLAN_KEY, self._plan | {"tables": digests})


_TABLES = {EXPLANATIONS_KEY: SCHEMA, REPLIES_KEY: REPLIES_SCHEMA}


def _parquet(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _without(table: pa.Table, journals: list[Journal]) -> pa.Table:
    return table.filter(pc.invert(pc.is_in(table.column("feature"), pa.array([journal.feature for journal in journals], pa.uint32()))))


def _sorted(table: pa.Table, then: str) -> pa.Table:
    return table.sort_by([("feature", "ascending"), (then, "ascending")]).combine_chunks()


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"
