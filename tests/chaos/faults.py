"""The faults of the chaos, each injected while a run is under way."""

import random
import signal
import time
from collections import Counter
from collections.abc import Callable

import psutil

from tests.chaos.cluster import HostCluster
from tests.chaos.command import STAGES, Command
from tests.chaos.disk import Disk
from tests.chaos.hosts import Host
from tests.servers.fault_proxy import FaultProxy

BRIEF_SECONDS = 0.8  # shorter than what makes the head take a node for dead
TAKEN_FOR_DEAD_SECONDS = 20.0  # at most: three unanswered looks
WAIT_SECONDS = 300.0
END_SECONDS = 10.0  # promised from a signal to the end of a command
RAYS_OWN = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")
SLOW_BYTES_PER_SECOND = 50_000.0


class RunEndedError(Exception):
    """The run finished before a fault could be injected."""


class Faults:
    """Injects faults into a run, and repairs afterwards what does not repair itself.

    Args:
        cluster: where the run is.
        disk: that its files, or the objects of its object store, are on.
        proxy: between the cluster and the object store.
        command: of the run.
        draw: decides which node and which worker it is, and when.

    Attributes:
        injected: how many, by kind.
        seconds_to_end: of the command, for each signal that it got.
    """

    def __init__(self, cluster: HostCluster, disk: Disk, proxy: FaultProxy, command: Command, draw: random.Random) -> None:
        self.cluster, self.disk, self.proxy, self.command, self.draw = cluster, disk, proxy, command, draw
        self.injected: Counter[str] = Counter()
        self.seconds_to_end: list[float] = []

    def inject(self, kind: str, stage: str) -> None:
        """Inject a fault as soon as the run has come to a stage.

        Raises:
            RunEndedError: it had finished already.
        """
        self.until(lambda: STAGES.index(self.command.stage()) >= STAGES.index(stage), f"the stage {stage}")
        self.wait(self.draw.uniform(0, BRIEF_SECONDS))
        KINDS[kind](self)
        self.injected[kind] += 1

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Tend the run until a condition holds."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition():
            if self.tend():
                raise RunEndedError
            assert time.monotonic() < deadline, f"the run did not reach {what}:\n{self.command.said()}"
            time.sleep(0.05)

    def wait(self, seconds: float) -> None:
        """Tend the run for a while."""
        over = time.monotonic() + seconds
        self.until(lambda: time.monotonic() >= over, "the next second")

    def tend(self) -> bool:
        """Start again what gave up: nodes that the head took for dead, and the command. Says whether the run has finished."""
        for node in self.cluster.nodes:
            if self.cluster.ended(node):
                self.cluster.join(node)
        return self.command.finished()

    def worker(self) -> psutil.Process:
        """A process that works for the run, as soon as there is one."""
        found: list[psutil.Process] = []

        def look() -> bool:
            found[:] = [process for node in self.cluster.nodes for process in node.processes() if _works(process)]
            return bool(found)

        self.until(look, "a worker")
        return self.draw.choice(found)

    def node(self) -> Host:
        """One of the nodes."""
        return self.draw.choice(self.cluster.nodes)


def _works(process: psutil.Process) -> bool:
    try:
        title = process.cmdline()[0]
    except (psutil.Error, IndexError):
        return False
    return title.startswith("ray::") and not title.startswith(RAYS_OWN)


def _kill_worker(faults: Faults) -> None:
    faults.worker().kill()


def _stop_worker(faults: Faults) -> None:
    _stop([faults.worker()])


def _stop_node(faults: Faults) -> None:
    _stop(faults.node().processes())


def _stop(processes: list[psutil.Process]) -> None:
    _send(processes, signal.SIGSTOP)
    time.sleep(BRIEF_SECONDS)
    _send(processes, signal.SIGCONT)


def _send(processes: list[psutil.Process], number: int) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue


def _cut_node_off(faults: Faults) -> None:
    _cut_off(faults.node(), BRIEF_SECONDS)


def _cut_head_off(faults: Faults) -> None:
    _cut_off(faults.cluster.head, BRIEF_SECONDS)


def _cut_off(host: Host, seconds: float) -> None:
    host.unplug()
    time.sleep(seconds)
    host.plug_in()


def _cut_node_off_until_it_is_taken_for_dead(faults: Faults) -> None:
    node = faults.node()
    node.unplug()
    began = time.monotonic()
    try:
        faults.until(
            lambda: f"address: {node.address} " in faults.command.said() or time.monotonic() - began > TAKEN_FOR_DEAD_SECONDS,
            "the head's word that a node is dead",
        )
    finally:  # also where the run ends meanwhile: the next one needs the node
        node.plug_in()
    faults.until(lambda: faults.cluster.ended(node), "the end of Ray on a node that the head takes for dead")


def _lose_power(faults: Faults) -> None:
    faults.cluster.lose_power(faults.node())


def _lose_power_of_all(faults: Faults) -> None:
    faults.cluster.lose_power(*faults.cluster.nodes)


def _end_by(number: int, code: int) -> Callable[[Faults], None]:
    def end(faults: Faults) -> None:
        seconds = faults.command.end_by(number, code, seconds=3 * END_SECONDS)
        if seconds is None:
            raise RunEndedError
        faults.seconds_to_end.append(seconds)

    return end


def _fill_disk(faults: Faults) -> None:
    with faults.disk.full():
        time.sleep(BRIEF_SECONDS)


def _make_disk_read_only(faults: Faults) -> None:
    with faults.disk.read_only():
        time.sleep(BRIEF_SECONDS)


def _silence_disk(faults: Faults) -> None:
    with faults.disk.silence():
        time.sleep(BRIEF_SECONDS)


def _slow_disk(faults: Faults) -> None:
    faults.disk.crawl(BRIEF_SECONDS)


def _silence_object_store(faults: Faults) -> None:
    with faults.proxy.silence():
        time.sleep(BRIEF_SECONDS)


def _slow_object_store(faults: Faults) -> None:
    before, faults.proxy.bytes_per_second = faults.proxy.bytes_per_second, SLOW_BYTES_PER_SECOND
    time.sleep(BRIEF_SECONDS)
    faults.proxy.bytes_per_second = before


BRIEF: dict[str, Callable[[Faults], None]] = {
    "worker stopped for a while": _stop_worker,
    "node stopped for a while": _stop_node,
    "node cut off for a while": _cut_node_off,
    "head cut off for a while": _cut_head_off,
    "disk full": _fill_disk,
    "disk read-only": _make_disk_read_only,
    "disk silent": _silence_disk,
    "disk slow": _slow_disk,
}
OBJECT_STORE: dict[str, Callable[[Faults], None]] = {
    "object store silent": _silence_object_store,
    "object store slow": _slow_object_store,
}
COMMAND: dict[str, Callable[[Faults], None]] = {
    "command killed": _end_by(signal.SIGKILL, -signal.SIGKILL),
    "command got SIGTERM": _end_by(signal.SIGTERM, 143),
    "command got SIGINT": _end_by(signal.SIGINT, 130),
    "command got SIGHUP": _end_by(signal.SIGHUP, 129),
}
NODES: dict[str, Callable[[Faults], None]] = {
    "node lost its power": _lose_power,
    "two nodes lost their power at once": _lose_power_of_all,
    "node cut off until it was taken for dead": _cut_node_off_until_it_is_taken_for_dead,
}
KINDS = {**BRIEF, **OBJECT_STORE, **COMMAND, **NODES, "worker killed": _kill_worker}
