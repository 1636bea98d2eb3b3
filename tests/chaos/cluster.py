"""A Ray cluster of hosts: a head, where commands are started, and nodes with one CPU each."""

import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.chaos.hosts import Host, HostProcess, Network

RAY = str(Path(sys.executable).with_name("ray"))
PORT = 6379
START_SECONDS = 60.0


class HostCluster:
    """Nodes that can lose their power or their network.

    Args:
        network: where the hosts are added.
        environment: of all Ray processes, and so of their workers.

    Attributes:
        head: where commands are started; it has no CPU for workers.
        nodes: those that work.
        address: of the cluster.
    """

    def __init__(self, network: Network, environment: Mapping[str, str], nodes: int = 2) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="hc", dir="/tmp"))  # short: Ray's sockets lie below it
        self._own = self.directory / "ray"  # each host's own
        self._own.mkdir()
        self._network, self._environment, self._logs = network, environment, 0
        self.head = network.add(self._own)
        self.address = f"{self.head.address}:{PORT}"
        self._ray: dict[Host, HostProcess] = {}
        self._start(
            self.head, "--head", f"--port={PORT}", "--num-cpus=0", "--include-dashboard=False", f"--temp-dir={self._own}", "--disable-usage-stats"
        )
        self._wait_until_it_answers()
        self.nodes = [self.add() for _ in range(nodes)]

    def add(self) -> Host:
        """Connect a further node."""
        host = self._network.add(self._own)
        self.join(host)
        return host

    def join(self, host: Host) -> None:
        """Start Ray on a host, for instance again after the head took it for dead."""
        self._start(host, f"--address={self.address}", "--num-cpus=1")

    def ended(self, host: Host) -> bool:
        """Say whether Ray has ended on a host."""
        return self._ray[host].poll() is not None

    def lose_power(self, *hosts: Host) -> None:
        """Kill all processes of these nodes at once, and put new ones in their places."""
        for host in hosts:
            host.lose_power()
        for host in hosts:
            self.nodes[self.nodes.index(host)] = self.add()

    def close(self) -> None:
        """Delete what the cluster left; its hosts end with the network."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _start(self, host: Host, *arguments: str) -> None:
        command = [RAY, "start", *arguments, f"--node-ip-address={host.address}", "--block", "--object-store-memory=100000000"]
        self._logs += 1
        with open(self.directory / f"{host.name}-{self._logs}.log", "wb") as log:
            self._ray[host] = host.start(command, self._environment, log, self.directory)

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        said = self.directory / f"{self.head.name}-1.log"
        while b"Ray runtime started" not in said.read_bytes():
            if self.ended(self.head) or time.monotonic() > deadline:
                raise RuntimeError(f"the head did not start: {said.read_text()[-2000:]}")
            time.sleep(0.1)


@contextlib.contextmanager
def host_cluster(network: Network, environment: Mapping[str, str], nodes: int = 2) -> Iterator[HostCluster]:
    """A cluster for the duration of a `with` block."""
    cluster = HostCluster(network, environment, nodes)
    try:
        yield cluster
    finally:
        cluster.close()
