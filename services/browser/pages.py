"""What the browser may hand out: a closed list of objects of one run, read whole and kept for a moment.

Nothing a visitor sends becomes part of a path except the name of an interpreted source, and that only in a narrow alphabet.
"""

import asyncio
import gzip
import re
import time
from dataclasses import dataclass

from sae.report.script import page_script, script_digest
from sae.storage import Place, sha256_hex

KEEP_SECONDS = 10.0
KEPT = ("report.html", "summary.json")
INDEX_FILES = ("features.parquet", "summary.json")
SOURCE_NAME = "[A-Za-z0-9][A-Za-z0-9_-]{0,99}"

KINDS = {"html": "text/html; charset=utf-8", "json": "application/json; charset=utf-8", "parquet": "application/vnd.apache.parquet"}

# The digests are those of this release's own scripts, not of what lies in the store: a report that someone else wrote there runs nothing.
_SCRIPTS = " ".join(f"'sha256-{script_digest(page_script(with_features))}'" for with_features in (True, False))
CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; script-src {_SCRIPTS}; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class Page:
    """One object, ready to be sent.

    Attributes:
        body: its bytes.
        packed: the same bytes compressed with gzip, or None where that gains nothing.
        tag: the entity tag, its digest.
        kind: the content type.
    """

    body: bytes
    packed: bytes | None
    tag: str
    kind: str


class Pages:
    """The objects of one run directory; reads happen in threads, one at a time for each object."""

    def __init__(self, run: Place) -> None:
        self.run = run
        self._kept: dict[str, tuple[float, Page]] = {}
        self._locks = {key: asyncio.Lock() for key in KEPT}

    async def read(self, key: str) -> Page:
        """One object; those of `KEPT` are read again at most every ten seconds.

        Raises:
            InputError: it is not there.
            StorageError: it could not be read.
        """
        if key not in KEPT:
            return await asyncio.to_thread(self._load, key)
        async with self._locks[key]:
            kept = self._kept.get(key)
            if kept is None or time.monotonic() - kept[0] > KEEP_SECONDS:
                before = kept[1] if kept else None
                kept = self._kept[key] = (time.monotonic(), await asyncio.to_thread(self._load, key, before))
            return kept[1]

    def _load(self, key: str, before: Page | None = None) -> Page:
        body = self.run.get(key)
        tag = f'"{sha256_hex(body)[:32]}"'
        if before is not None and before.tag == tag:
            return before
        kind = KINDS[key.rpartition(".")[2]]
        packed = None if key.endswith(".parquet") else gzip.compress(body, 6, mtime=0)
        return Page(body, packed, tag, kind)


def index_key(source: str, file: str) -> str | None:
    """The key of an object of the feature index, or None where there can be none of that name."""
    known = file in INDEX_FILES and re.fullmatch(SOURCE_NAME, source, re.ASCII)
    return f"interpretation/{source}/{file}" if known else None
