"""Objects as files: written beside their name, synced, then renamed into place."""

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sae.storage.remote import Found, as_bytes

TEMPORARY_SUFFIX = ".partial"
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS}


class LocalObjects:
    """The files of this machine, or of a shared filesystem that is mounted here."""

    def put(self, path: str, data: Any) -> None:
        """Write a file, whole or not at all."""
        with _finished_temporary(Path(path), data) as temporary:
            os.replace(temporary, path)

    def put_new(self, path: str, data: Any) -> bool:
        """Write a file unless there is one; says whether what is there now is `data`."""
        if not os.path.exists(path):
            with _finished_temporary(Path(path), data) as temporary, contextlib.suppress(FileExistsError):
                _name(temporary, path)
                return True
        return self.get(path, None, None) == as_bytes(data)

    def get(self, path: str, start: int | None, stop: int | None) -> bytes:
        """Read a file, or its bytes `[start, stop)`."""
        with open(path, "rb") as file:
            file.seek(start or 0)
            return file.read(-1 if stop is None else max(0, stop - (start or 0)))

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        return os.path.exists(path)

    def find(self, path: str) -> Iterator[Found]:
        """All files below a directory, those of unfinished writes too."""
        for directory, _, names in os.walk(path):
            for name in names:
                full = os.path.join(directory, name)
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                    status = os.stat(full)
                    yield Found(full, status.st_size, status.st_mtime)

    def delete(self, path: str) -> None:
        """Remove a file."""
        os.unlink(path)


@contextlib.contextmanager
def _finished_temporary(path: Path, data: Any) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _name(temporary: Path, path: str) -> None:
    """Give a finished file its name, or raise FileExistsError: of several processes at once, one succeeds."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # A filesystem without hard links: who creates the name may replace it.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        os.replace(temporary, path)
