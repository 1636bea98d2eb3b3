"""The disk of the chaos does what it is said to do, and recovers."""

import threading
import time

import pytest

from tests.chaos.disk import Disk, missing


@pytest.fixture
def disk(tmp_path):
    if reason := missing():
        pytest.skip(reason)
    disk = Disk(tmp_path, megabytes=8)
    yield disk
    disk.remove()


def test_a_full_or_read_only_disk_refuses_writes_until_it_recovers(disk):
    file = disk.path / "file"
    with disk.full(), pytest.raises(OSError, match="No space left"):
        file.write_bytes(b"x" * 100_000)
    file.write_bytes(b"x" * 100_000)
    with disk.read_only(), pytest.raises(OSError, match="Read-only file system"):
        file.write_bytes(b"y")
    assert file.read_bytes() == b"x" * 100_000


def test_a_silent_disk_lets_writes_wait(disk):
    writing = threading.Thread(target=(disk.path / "file").write_bytes, args=(b"x",))
    with disk.silence():
        writing.start()
        time.sleep(0.2)
        assert writing.is_alive()
    writing.join(10)
    assert (disk.path / "file").read_bytes() == b"x"
    disk.crawl(0.3)
