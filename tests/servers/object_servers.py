"""S3 servers for the tests, each a group of real processes on free ports: OpenStack Swift with its s3api, and moto."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SWIFT_PYTHON = Path(__file__).parents[2] / ".venv-swift" / "bin" / "python"
LAUNCHER = Path(__file__).with_name("swift_launcher.py")
STORAGE_ROLES = ("account", "container", "object")
# `test:reader` may read what is public and write nothing.
SWIFT_PROXY = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
swift_dir = {directory}
workers = 0
user = {user}
log_level = ERROR
[pipeline:main]
pipeline = catch_errors cache listing_formats bulk s3api tempauth slo dlo symlink versioned_writes proxy-logging proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
allow_account_management = true
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
user_test_reader = reading
[filter:s3api]
use = egg:swift#s3api
[filter:cache]
use = egg:swift#memcache
memcache_servers =
[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_object_versioning = true
""" + "".join(
    f"[filter:{name}]\nuse = egg:swift#{name.replace('-', '_')}\n"
    for name in ("catch_errors", "listing_formats", "bulk", "slo", "dlo", "symlink", "proxy-logging")
)
SWIFT_STORAGE = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
swift_dir = {directory}
devices = {devices}
mount_check = false
workers = 0
user = {user}
log_level = ERROR
[pipeline:main]
pipeline = {role}-server
[app:{role}-server]
use = egg:swift#{role}
"""
SWIFT_CONF = """
[swift-hash]
swift_hash_path_suffix = tests
[storage-policy:0]
name = default
default = yes
"""


@dataclass(frozen=True)
class ObjectServer:
    """Where a server listens, and what it lets in."""

    port: int
    access_key: str
    secret_key: str
    process_ids: tuple[int, ...]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self, url: str | None = None) -> dict[str, str]:
        """What a client needs in its environment; `url` puts a proxy before the server."""
        return {"AWS_ENDPOINT_URL": url or self.url, "AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}


@contextlib.contextmanager
def swift_server(directory: Path, objects: Path | None = None) -> Iterator[ObjectServer]:
    """OpenStack Swift with its S3 API: account, container, object and proxy server; all it keeps lies below `directory`, or objects in `objects`."""
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    devices = {role: directory / "devices" for role in STORAGE_ROLES} | ({"object": objects} if objects else {})
    for each in devices.values():
        (each / "d0").mkdir(parents=True, exist_ok=True)
    (directory / "swift.conf").write_text(SWIFT_CONF)
    *storage_ports, port = free_ports(4)
    (directory / "ports").write_text(" ".join(map(str, storage_ports)))
    for role, storage_port in zip(STORAGE_ROLES, storage_ports, strict=True):
        settings = SWIFT_STORAGE.format(port=storage_port, directory=directory, devices=devices[role], role=role, user=user)
        (directory / f"{role}.conf").write_text(settings)
    (directory / "proxy.conf").write_text(SWIFT_PROXY.format(port=port, directory=directory, user=user))
    subprocess.run([SWIFT_PYTHON, LAUNCHER, "rings", directory], check=True, capture_output=True)
    commands = {role: [SWIFT_PYTHON, LAUNCHER, role, directory] for role in (*STORAGE_ROLES, "proxy")}
    with _processes(commands, directory) as process_ids:
        for waited_for in (*storage_ports, port):
            _wait_until_it_answers(waited_for, directory)
        yield ObjectServer(port, "test:tester", "testing", process_ids)


@contextlib.contextmanager
def moto_server(directory: Path) -> Iterator[ObjectServer]:
    """moto's S3 in a process of its own: it believes any credentials and forgets everything at its end."""
    [port] = free_ports(1)
    command = [Path(sys.executable).with_name("moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    with _processes({"moto": command}, directory) as process_ids:
        _wait_until_it_answers(port, directory)
        yield ObjectServer(port, "test", "test", process_ids)


def free_ports(count: int) -> list[int]:
    """TCP ports of loopback that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def _processes(commands: dict[str, list[str | Path]], directory: Path) -> Iterator[tuple[int, ...]]:
    running = []
    try:
        for name, command in commands.items():
            with open(directory / f"{name}.log", "wb") as log:
                running.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=os.environ | {"OMP_NUM_THREADS": "1"}))
        yield tuple(process.pid for process in running)
    finally:
        for process in running:
            process.kill()
        for process in running:
            process.wait(10)


def _wait_until_it_answers(port: int, directory: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthcheck", timeout=5).close()
        except urllib.error.HTTPError:
            return  # an answer is an answer
        except OSError:
            time.sleep(0.05)
        else:
            return
    logs = "\n".join(f"{path.name}: {path.read_text()[-2000:]}" for path in sorted(directory.glob("*.log")))
    raise TimeoutError(f"no server on port {port}\n{logs}")
