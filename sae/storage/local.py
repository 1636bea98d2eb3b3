"""Objects as files: written beside their name, synced, then renamed into place, and the rename synced, too.

Only ENOENT says that a file is not there, and only where no link on its way leads to nothing: a disk that is not mounted is no empty disk.
"""

import contextlib
import errno
import os
import re
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sae.errors import InputError
from sae.storage.remote import Found, as_bytes

TEMPORARY_SUFFIX = ".partial"
TEMPORARY_NAME = re.compile(rf".+\.[0-9a-f]+{re.escape(TEMPORARY_SUFFIX)}")
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS}
_NO_DIRECTORY_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES}  # some network filesystems; a directory one may not list


class LocalObjects:
    """The files of this machine, or of a shared filesystem that is mounted here."""

    def put(self, path: str, data: Any) -> None:
        """Write a file, whole or not at all."""
        with _finished_temporary(Path(path), data) as temporary:
            os.replace(temporary, path)
            _sync_directory(temporary.parent)

    def put_new(self, path: str, data: Any) -> bool:
        """Write a file unless there is one; says whether what is there now is `data`."""
        if not self.exists(path):
            with _finished_temporary(Path(path), data) as temporary, contextlib.suppress(FileExistsError):
                _name(temporary, path)
                _sync_directory(temporary.parent)
                return True
        return self.get(path, None, None) == as_bytes(data)

    def get(self, path: str, start: int | None, stop: int | None) -> bytes:
        """Read a file, or its bytes `[start, stop)`."""
        try:
            # Without O_NONBLOCK, opening a pipe waits for somebody who writes into it.
            with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
                _check_ordinary(path, os.fstat(file.fileno()))
                file.seek(start or 0)
                return file.read(-1 if stop is None else max(0, stop - (start or 0)))
        except FileNotFoundError:
            _check_links(path)
            raise

    def exists(self, path: str) -> bool:
        """Say whether there is such a file."""
        try:
            os.stat(path)
        except FileNotFoundError:
            _check_links(path)
            return False
        return True

    def find(self, path: str) -> Iterator[Found]:
        """All files below a directory, those of unfinished writes too; links to directories are followed."""
        if self.exists(path):
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                yield from _files_below(path, ())

    def delete(self, path: str) -> None:
        """Remove a file."""
        os.unlink(path)


def check_readable(path: Path) -> None:
    """Raise what reading a file would raise, before it is mapped into memory."""
    try:
        _check_ordinary(str(path), os.stat(path))
    except FileNotFoundError:
        _check_links(str(path))
        raise


def _files_below(directory: str, above: tuple[tuple[int, int], ...]) -> Iterator[Found]:
    status = os.stat(directory)
    identity = status.st_dev, status.st_ino
    if identity in above:
        raise InputError(f"{directory} is a link to a directory that holds it. Links in a circle cannot be listed. Remove the link")
    with os.scandir(directory) as entries:
        names = sorted(entry.name for entry in entries)
    for name in names:
        full = os.path.join(directory, name)
        try:
            status = os.stat(full)
            if stat.S_ISDIR(status.st_mode):
                yield from _files_below(full, (*above, identity))
            else:
                yield Found(full, status.st_size, status.st_mtime)
        except FileNotFoundError:
            _check_links(full)  # else removed meanwhile


def _check_links(path: str) -> None:
    """Tell a file that is not there from one behind a link that leads nowhere, such as to a disk that is not mounted."""
    for part in (path, *map(str, Path(path).parents)):
        try:
            found = os.lstat(part)
        except FileNotFoundError:
            continue
        if stat.S_ISLNK(found.st_mode) and not os.path.exists(part):
            raise InputError(
                f"{part} is a link to {os.readlink(part)!r}, which does not exist (a disk that is not mounted?). Mount it, or remove the link"
            )
        return


def _check_ordinary(path: str, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} is a device, pipe or socket. Only files can be read here. Give the path of a file")


@contextlib.contextmanager
def _finished_temporary(path: Path, data: Any) -> Iterator[Path]:
    _make_directory(path.parent)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        with contextlib.suppress(OSError):  # the error of the write is the one that matters
            temporary.unlink(missing_ok=True)


def _make_directory(path: Path) -> None:
    """Create a directory and those above it; a power cut loses none of them."""
    try:
        path.mkdir()
    except FileExistsError:
        return  # a file of that name, or a link to nothing: the write that follows says so
    except FileNotFoundError:
        if not path.parent.exists():
            _make_directory(path.parent)
        path.mkdir(exist_ok=True)  # the parent may have come from another process meanwhile; it fails again where nothing can be made, as in /proc
    except OSError:
        if not path.is_dir():
            raise
        return  # some filesystems refuse to make what is there with another error
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    """Write the names in a directory to the disk: syncing a file leaves its name in memory."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_SYNC:
            raise


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
