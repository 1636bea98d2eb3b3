"""A disk of its own, in a file: it can become full, read-only, silent or slow, and recovers."""

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

READ_ONLY_SECONDS = 10.0  # for which a file that is open for writing may keep the disk from becoming read-only
PAUSE_SECONDS = 0.1


class Disk:
    """An ext4 file system on a loop device.

    Attributes:
        path: where it is mounted.
    """

    def __init__(self, directory: Path, megabytes: int) -> None:
        image, self.path = directory / "disk.img", directory / "disk"
        self.path.mkdir()
        with open(image, "wb") as file:
            file.truncate(megabytes * 2**20)
        _run("mkfs.ext4", "-q", "-m", "0", str(image))
        _run("mount", "-o", "loop", str(image), str(self.path))

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """Leave no byte free during the `with` block."""
        ballast = self.path / "ballast"
        for size in (2**20, 2**12, 2**10, 2**10):  # what is held ready for data that has no place yet becomes free once they are written
            with contextlib.suppress(OSError), open(ballast, "ab", buffering=0) as file:
                while file.write(b"\0" * size):
                    pass
            subprocess.run(["sync", "-f", self.path], check=True, timeout=60)
        try:
            yield
        finally:
            ballast.unlink()

    @contextlib.contextmanager
    def read_only(self) -> Iterator[None]:
        """Refuse every write during the `with` block."""
        deadline = time.monotonic() + READ_ONLY_SECONDS
        while True:
            try:
                _run("mount", "-o", "remount,ro", str(self.path))
                break
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        try:
            yield
        finally:
            _run("mount", "-o", "remount,rw", str(self.path))

    @contextlib.contextmanager
    def silence(self) -> Iterator[None]:
        """Let every write wait until the end of the `with` block."""
        _run("fsfreeze", "--freeze", str(self.path))
        try:
            yield
        finally:
            _run("fsfreeze", "--unfreeze", str(self.path))

    def crawl(self, seconds: float) -> None:
        """Be slow: let writes wait half of the time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with self.silence():
                time.sleep(PAUSE_SECONDS)
            time.sleep(PAUSE_SECONDS)

    def remove(self) -> None:
        """Unmount the disk, also while something still uses it."""
        _run("umount", "--lazy", str(self.path))


def missing() -> str | None:
    """The reason why this machine cannot have such a disk; None where it can."""
    for command in (["mkfs.ext4", "-V"], ["fsfreeze", "--version"], ["losetup", "--find"]):
        try:
            _run(*command)
        except (RuntimeError, OSError) as error:
            return f"a disk of its own is not possible here: {error}"
    return None


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
