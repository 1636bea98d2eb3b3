"""Objects that the browser may send: a closed list of one run's, sent piece by piece.

Nothing a visitor sends becomes part of a path except the name of an interpreted source, and that only in a narrow alphabet. The report and the
summary are kept for a moment, once for all visitors; a large object is never in memory as a whole.
"""

import asyncio
import gzip
import re
import stat
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from sae.errors import InputError, StorageError
from sae.report.script import page_script, script_digest
from sae.run.layout import REPORT_KEY, SUMMARY_KEY
from sae.storage import Place, sha256_hex

KEEP_SECONDS = 10.0
KEPT = (REPORT_KEY, SUMMARY_KEY)
KEPT_BYTES = 32 << 20  # a larger report is read anew for each visitor
PIECE_BYTES = 256 << 10
READS_AT_ONCE = 8  # pieces that are being read; others wait
INDEX_FILES = ("features.parquet", SUMMARY_KEY)
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
        key: of the object.
        size: in bytes.
        tag: its entity tag.
        body: its bytes where they are kept, else None.
        packed: the same bytes compressed with gzip, or None where that gains nothing.
    """

    key: str
    size: int
    tag: str
    body: bytes | None = None
    packed: bytes | None = None

    @property
    def kind(self) -> str:
        """Content type."""
        return KINDS[self.key.rpartition(".")[2]]


class Pages:
    """The objects of one run directory; reads happen in threads, a bounded number at a time."""

    def __init__(self, run: Place) -> None:
        self.run = run
        self._kept: dict[str, tuple[float, Page]] = {}
        self._locks = {key: asyncio.Lock() for key in KEPT}
        self._reads = asyncio.Semaphore(READS_AT_ONCE)

    async def find(self, key: str) -> Page:
        """One object; those of `KEPT` are looked at again at most every ten seconds.

        Raises:
            InputError: it is not there.
            StorageError: the storage does not answer.
        """
        if key not in KEPT:
            return await asyncio.to_thread(self._look, key)
        async with self._locks[key]:
            kept = self._kept.get(key)
            if kept is None or time.monotonic() - kept[0] > KEEP_SECONDS:
                kept = self._kept[key] = (time.monotonic(), await asyncio.to_thread(self._load, key, kept[1] if kept else None))
            return kept[1]

    async def pieces(self, page: Page) -> AsyncGenerator[bytes]:
        """The bytes of an object that is not kept, one piece at a time.

        Raises:
            StorageError: it was replaced by a shorter one meanwhile, or the storage does not answer.
        """
        for start in range(0, page.size, PIECE_BYTES):
            stop = min(start + PIECE_BYTES, page.size)
            async with self._reads:
                piece = await asyncio.to_thread(self.run.get, page.key, start, stop)
            if len(piece) != stop - start:
                raise StorageError(f"{self.run.path(page.key)} became shorter while it was sent: it was written anew")
            yield piece

    def _look(self, key: str) -> Page:
        self._refuse_other_files(key)
        for entry in self.run.entries(key.rpartition("/")[0]):
            if entry.key == key:
                return Page(key, entry.bytes, f'"{entry.bytes:x}-{entry.modified:.6f}"')
        raise InputError(f"{self.run.path(key)} does not exist")

    def _load(self, key: str, before: Page | None) -> Page:
        self._refuse_other_files(key)
        body = self.run.get(key, 0, KEPT_BYTES + 1)
        if len(body) > KEPT_BYTES:
            return self._look(key)
        tag = f'"{sha256_hex(body)[:32]}"'
        if before is not None and before.tag == tag:
            return before
        return Page(key, len(body), tag, body, gzip.compress(body, 6, mtime=0))

    def _refuse_other_files(self, key: str) -> None:
        """Refuse what a run from elsewhere may hold in the place of a file: a link out of the run, a pipe, a device."""
        path, root = self.run.local_path(key), self.run.local_path()
        if path is None or root is None:
            return
        try:
            if not path.resolve(strict=True).is_relative_to(root.resolve()) or not stat.S_ISREG(path.stat().st_mode):
                raise InputError(f"{path} is no file of the run: a link out of it, or no file")
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(f"{path} does not exist") from None
        except (OSError, RuntimeError) as error:  # RuntimeError: a link that leads to itself
            raise StorageError(f"could not look at {path}: {error}") from error


def index_key(source: str, file: str) -> str | None:
    """The key of an object of the feature index, or None where there can be none of that name."""
    known = file in INDEX_FILES and re.fullmatch(SOURCE_NAME, source, re.ASCII)
    return f"interpretation/{source}/{file}" if known else None
