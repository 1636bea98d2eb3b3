"""Errors of filesystems and their libraries as errors of ours, in one line that names the place."""

import contextlib
import errno
from collections.abc import Iterator

from sae.errors import InputError, MonosemError, StorageError
from sae.urls import without_credentials

LONGEST_REASON = 200
# The path is wrong, not the disk: another path, or other permissions, are the user's to choose.
_MISTAKES = {
    errno.ENOTDIR: "a part of this path is a file, not a directory",
    errno.EEXIST: "a part of this path is a file, not a directory",
    errno.EISDIR: "it is a directory, not a file",
    errno.ENAMETOOLONG: "a name in it is too long",
    errno.ELOOP: "its links go round in a circle",
    errno.EINVAL: "the filesystem does not take this name or request",
    errno.ENOENT: "nothing can be made there",
}
_ERRNO_OF = {NotADirectoryError: errno.ENOTDIR, IsADirectoryError: errno.EISDIR, FileExistsError: errno.EEXIST, FileNotFoundError: errno.ENOENT}


@contextlib.contextmanager
def explained_failures(doing: str, url: str) -> Iterator[None]:
    """Within a `with`, turn what a library raises into an error of ours.

    Args:
        doing: `write`, `read`, `list`, … for the message.
        url: of the object.

    Raises:
        InputError: the path or its permissions are at fault.
        StorageError: whatever else went wrong.
    """
    try:
        yield
    except MonosemError:
        raise
    except PermissionError:
        raise InputError(f"no permission to {doing} {url}. Change its permissions, or choose another path") from None
    except OSError as error:
        code = error.errno or next((code for kind, code in _ERRNO_OF.items() if isinstance(error, kind)), None)
        if code in _MISTAKES:
            raise InputError(f"cannot {doing} {url}: {_MISTAKES[code]}. Choose another path") from None
        raise StorageError(f"could not {doing} {url}: {_reason(error)}") from error
    except Exception as error:  # each library behind fsspec has exceptions of its own, which none of its documents list
        raise StorageError(f"could not {doing} {url}: {type(error).__name__}, {_reason(error)}") from error


def _reason(error: Exception) -> str:
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return without_credentials(" ".join(text.split()))[:LONGEST_REASON]
