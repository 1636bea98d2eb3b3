"""The record of the text that a corpus was made of: size and SHA-256 of each local file. With it, text that changed since then is noticed.

A corpus stands on its own once it is finished, so that text which is gone is no error. Text that is there, and is another, is: whoever runs the same
command expects figures of the text that lies there. Datasets of the hub and the pinned dependencies are not recorded.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from pydantic import NonNegativeInt

from sae.config import Config
from sae.corpus.files import find_files
from sae.corpus.formats import shown
from sae.corpus.sources import DEPENDENCIES, CorpusConfig
from sae.errors import ConfigError, CorruptObjectError, InputError, PlanError
from sae.storage import Place, sealed

TEXT_KEY = "text.json"
MOST_BYTES_READ = 2**30
"""Text of more bytes is recorded and compared by its sizes alone: a corpus may need a small part of it, and reading all would take minutes."""

_SHOWN_FILES = 3


class TextFile(Config):
    """A local file that was read."""

    bytes: NonNegativeInt
    sha256: str | None
    """None where there is too much text to read all of it."""


class TextRecord(Config):
    """All local files, by path as `corpus.text` finds them, in any order."""

    files: dict[str, TextFile]

    @property
    def digest(self) -> str:
        """The digest that the corpus' manifest holds."""
        digest: str = sealed(self.model_dump(mode="json"))["digest"]
        return digest


def record_text(config: CorpusConfig) -> TextRecord:
    """Read all local files of a configuration, or take their sizes alone where they have more than `MOST_BYTES_READ` together.

    Raises:
        InputError: a file cannot be read.
    """
    paths = [path for source in config.text if source != DEPENDENCIES and not source.startswith("hf:") for path, _ in find_files(source)]
    try:
        sizes = {path: path.stat().st_size for path in paths}
        whole = sum(sizes.values()) <= MOST_BYTES_READ
        return TextRecord(files={str(path): TextFile(bytes=size, sha256=_sha256(path) if whole else None) for path, size in sizes.items()})
    except OSError as error:
        raise InputError(f"cannot read {shown(error.filename or '')!r}: {error.strerror}. Check the path and its permissions") from None


def write_text_record(place: Place, record: TextRecord) -> None:
    """Write the record into a corpus."""
    place.put_sealed(TEXT_KEY, record.model_dump(mode="json"))


def check_text_is_the_same(config: CorpusConfig, record: TextRecord, since: str) -> None:
    """Compare the text that is there with a record of it; text that is gone altogether is not compared.

    Args:
        config: which text.
        record: of that text.
        since: when it was recorded, for the message.

    Raises:
        PlanError: a file was added, removed or changed.
        InputError: a file cannot be read.
    """
    if not any(os.path.lexists(path) for path in record.files):
        return
    now = record_text(config).files
    before = record.files
    differences = [
        *_named("added", [path for path in now if path not in before]),
        *_named("removed", [path for path in before if path not in now]),
        *_named("changed", [path for path in now if path in before and _differ(now[path], before[path])]),
    ]
    if differences:
        raise PlanError(f"the text of corpus.text is another than {since}: {'; '.join(differences)}. Restore it, or choose another output")


def read_text_record(place: Place, digest: str) -> TextRecord:
    """The record in a corpus.

    Args:
        place: of the corpus.
        digest: that its manifest holds.

    Raises:
        InputError: there is none.
        CorruptObjectError: it was changed, or belongs to another corpus.
    """
    try:
        record = TextRecord.parse(place.get_sealed(TEXT_KEY))
    except ConfigError as error:
        raise _untrusted(place, str(error)) from None
    if record.digest != digest:
        raise _untrusted(place, "it is not the record of this corpus")
    return record


def _untrusted(place: Place, reason: str) -> CorruptObjectError:
    return CorruptObjectError(f"{place.path(TEXT_KEY)} cannot be trusted, {reason}: delete the corpus and prepare it again")


def _differ(now: TextFile, before: TextFile) -> bool:
    return now.bytes != before.bytes or (now.sha256 is not None and before.sha256 is not None and now.sha256 != before.sha256)


def _named(what: str, paths: Sequence[str]) -> list[str]:
    if not paths:
        return []
    more = f" and {len(paths) - _SHOWN_FILES:,} more" if len(paths) > _SHOWN_FILES else ""
    return [f"{', '.join(shown(path) for path in sorted(paths)[:_SHOWN_FILES])}{more} {what}"]


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
