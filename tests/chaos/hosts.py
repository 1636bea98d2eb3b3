"""Hosts on one machine: each has its own network, processes and name, so that a power failure or a partition is a real one.

A host is a set of Linux namespaces, held by a process that is its first one: where that dies, the kernel kills all others. A cable (veth) leads
from each host to a switch (bridge) in a namespace of its own. Nothing is reachable from outside, no name appears in /run or in the machine's
own network, and everything vanishes with the test process, however that ends.
"""

import ctypes
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import psutil

PREFIX = "10.77.0."
GATEWAY = f"{PREFIX}1"
TOOLS = ("ip", "tc", "nsenter", "setpriv", "unshare")
# The first process of a host: it does nothing but wait, also for processes that lost their parent.
FIRST = ["bash", "-c", "while true; do sleep 3600 & wait $!; done"]
# Its own shared memory, and names: without a name server that can be reached, each look-up would take seconds to fail.
SET_UP = f"""
hostname {{name}}
ip link set lo up
ip address add {{address}}/24 dev eth0
ip link set eth0 up
ip route add default via {GATEWAY}
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /mnt
printf '127.0.0.1 localhost\\n{{address}} {{name}}\\n' > /mnt/hosts && mount --bind /mnt/hosts /etc/hosts
echo nameserver 127.0.0.1 > /mnt/resolv && mount --bind /mnt/resolv /etc/resolv.conf
"""
START_SECONDS = 10.0


def missing() -> str | None:
    """The reason why this machine cannot have hosts; None where it can."""
    if sys.platform != "linux":
        return "network namespaces need Linux"
    if absent := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"network namespaces need {', '.join(absent)} (Debian: iproute2, util-linux)"
    try:
        with Network() as network:
            network.add()
    except RuntimeError as error:
        return f"network namespaces are not allowed here: {error}"
    return None


class Network:
    """A switch and its hosts; the `with` block ends them all."""

    def __init__(self) -> None:
        self._hosts: list[Host] = []
        self._numbers = itertools.count(2)
        self._holder = _hold("--net")
        self._switch = _first_process(self._holder)
        try:
            self._inside("ip", "link", "set", "lo", "up")
            self._inside("ip", "link", "add", "switch", "type", "bridge")
            self._inside("ip", "address", "add", f"{GATEWAY}/24", "dev", "switch")
            self._inside("ip", "link", "set", "switch", "up")
        except RuntimeError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def add(self, *own: Path) -> "Host":
        """Connect a further host, with an address that none had before; it shares this machine's disk but for the directories that are its `own`."""
        host = Host(self._switch, next(self._numbers), own)
        self._hosts.append(host)
        return host

    def listen(self) -> socket.socket:
        """A TCP socket at GATEWAY, on a free port: hosts reach it, and this process accepts its connections."""
        return _in_network_of(self._switch, lambda: socket.create_server((GATEWAY, 0)))

    def close(self) -> None:
        """End every process of every host, and the switch."""
        for host in self._hosts:
            host.lose_power()
        self._holder.kill()
        self._holder.wait(10)

    def _inside(self, *command: str) -> None:
        _check("nsenter", f"--net=/proc/{self._switch}/ns/net", *command)


class Host:
    """One host; made by `Network.add`.

    Attributes:
        address: its IPv4 address.
        name: its host name.
    """

    def __init__(self, switch: int, number: int, own: tuple[Path, ...]) -> None:
        self.address, self.name = f"{PREFIX}{number}", f"host-{number}"
        self._cable, self._switch = f"cable{number}", switch
        self._holder = _hold("--net", "--pid", "--mount", "--uts", "--fork", "--kill-child=KILL", "--mount-proc")
        try:
            self._first = _first_process(self._holder)
            self._on_switch("ip", "link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns", str(self._first))
            self._on_switch("ip", "link", "set", self._cable, "master", "switch", "up")
            for line in SET_UP.format(name=self.name, address=self.address).strip().splitlines():
                _check(*self._enter(), "sh", "-c", line)
            for directory in own:
                _check(*self._enter(), "mount", "-t", "tmpfs", "tmpfs", str(directory))
        except RuntimeError:
            self.lose_power()
            raise

    def start(self, command: list[str], environment: Mapping[str, str], output: IO[bytes], directory: Path) -> "HostProcess":
        """Start a command on this host."""
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *self._enter(), *command],
            env=dict(environment), stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=directory, start_new_session=True,
        )  # fmt: skip
        return HostProcess(process)

    def processes(self) -> list[psutil.Process]:
        """All processes of this host but the first."""
        try:
            own = os.readlink(f"/proc/{self._first}/ns/pid")
        except OSError:
            return []
        return [process for process in psutil.process_iter() if process.pid != self._first and _process_namespace(process.pid) == own]

    def unplug(self) -> None:
        """Pull the cable: nothing arrives or leaves, and nobody is told."""
        self._on_switch("ip", "link", "set", self._cable, "nomaster")

    def plug_in(self) -> None:
        """Put the cable back."""
        self._on_switch("ip", "link", "set", self._cable, "master", "switch")

    def slow_down(self, bits_per_second: int) -> None:
        """Limit what arrives at this host; `speed_up` ends it."""
        shape = f"tbf rate {bits_per_second} burst 32kb latency 500ms".split()
        self._on_switch("tc", "qdisc", "replace", "dev", self._cable, "root", *shape)

    def speed_up(self) -> None:
        """End `slow_down`."""
        self._on_switch("tc", "qdisc", "del", "dev", self._cable, "root")

    def lose_power(self) -> None:
        """Kill every process at once. The host does not come back; calling it again does nothing."""
        self._holder.kill()  # the kernel kills its child, the host's first process, and with that all others
        self._holder.wait(10)

    def _enter(self) -> list[str]:
        return ["nsenter", f"--target={self._first}", "--net", "--pid", "--mount", "--uts"]

    def _on_switch(self, *command: str) -> None:
        _check("nsenter", f"--net=/proc/{self._switch}/ns/net", *command)


class HostProcess:
    """A command that runs on a host."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        code = self._process.poll()
        # nsenter stops itself with the command that it waits for, and nobody continues it: it would not see the command's end.
        if code is None and psutil.Process(self._process.pid).status() == psutil.STATUS_STOPPED:
            self._process.send_signal(signal.SIGCONT)
        return code

    def wait(self, seconds: float) -> int:
        """Wait for its end; returns the exit code, negative where a signal killed it."""
        return self._process.wait(seconds)

    def send_signal(self, number: int) -> None:
        """Send a signal to the command itself: the process that is waited for is the one that entered the host."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.poll() is None:
            if children := psutil.Process(self._process.pid).children():
                children[0].send_signal(number)
                return
            time.sleep(0.02)


def _hold(*namespaces: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "unshare", *namespaces, "--", *FIRST],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def _first_process(holder: subprocess.Popen[bytes]) -> int:
    """The process number, in this process' numbering, of the waiting process, once it waits."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if holder.poll() is not None:
            assert holder.stderr is not None
            raise RuntimeError(holder.stderr.read().decode(errors="replace").strip() or f"unshare ended with {holder.returncode}")
        above = psutil.Process(holder.pid)
        for process in (above, *above.children()):
            if process.name() == FIRST[0] and process.children():
                return process.pid
        time.sleep(0.01)
    holder.kill()
    raise RuntimeError(f"unshare has not started a process within {START_SECONDS:g} s")


def _process_namespace(process: int) -> str | None:
    try:
        return os.readlink(f"/proc/{process}/ns/pid")
    except OSError:
        return None


def _check(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


def _in_network_of(process: int, make: Callable[[], socket.socket]) -> socket.socket:
    """Call `make` in a thread that is in another network; a socket stays where it was made."""
    made: list[socket.socket | OSError] = []

    def enter() -> None:
        try:
            with open(f"/proc/{process}/ns/net") as namespace:
                if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), 0):
                    raise OSError(ctypes.get_errno(), "setns")
            made.append(make())
        except OSError as error:
            made.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if isinstance(made[0], OSError):
        raise made[0]
    return made[0]
