"""The whole way, from text to report, through every fault on a cluster of hosts: all results are those of an undisturbed run."""

import contextlib
import json
import os
import random
import shutil
import time
from collections import Counter, deque
from dataclasses import dataclass

import pytest

from sae.storage import Place
from sae.store.verification import verify_store
from tests.chaos import disk as disks
from tests.chaos import hosts
from tests.chaos.cluster import HostCluster, host_cluster
from tests.chaos.command import Command
from tests.chaos.disk import Disk
from tests.chaos.faults import END_SECONDS, KINDS, Faults, RunEndedError
from tests.chaos.schedule import EVERY_KIND, Schedule, drawn_schedule
from tests.chaos.test_chaos_harvest import FAULTS, identities
from tests.servers.fault_proxy import FaultProxy
from tests.servers.fixtures import new_bucket
from tests.servers.object_servers import SWIFT_PYTHON, swift_server

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1200)]
HOOKPOINT = "blocks.0.mlp.hook_post"
HARVEST_BYTES_PER_SECOND = 300_000.0  # of the line to the object store while a run harvests, so that faults find it at work
OF_TIME_AND_PLACE = ("config.json", "stages.json", "summary.json", "report.html")  # everything else is compared
TIMES = ("seconds", "wall_seconds", "read_seconds", "sync_seconds", "step_seconds", "datetime_epoch_millis")
OVER_TIMES = ("digest", "logs")  # digests of what holds times; the logs themselves are compared
BUSY_SECONDS = 5.0  # that a machine with other tests on it may add to the end of a command
MOST_RUNS = 6


def pytest_generate_tests(metafunc):
    """One run with the store on Swift, and two in each round: one has everything on a disk, the other everything on Swift."""
    if "run" in metafunc.fixturenames:
        rounds = metafunc.config.getoption("--chaos-rounds")
        more = [(where, number) for number in range(rounds if rounds > 1 else 0) for where in ("files", "objects")]
        metafunc.parametrize("run", [("mixed", 0), *more], ids=lambda run: "-".join(map(str, run)))


@pytest.fixture(scope="module")
def disk(tmp_path_factory, rounds):
    if rounds == 1:
        pytest.skip("takes four minutes: `make chaos` runs it")
    if reason := hosts.missing() or disks.missing():
        pytest.skip(reason)
    disk = Disk(tmp_path_factory.mktemp("disk"), megabytes=300)
    yield disk
    disk.remove()


@pytest.fixture(scope="module")
def network():
    with hosts.Network() as network:
        yield network


@pytest.fixture(scope="module")
def own_swift(disk, tmp_path_factory):
    """Swift with its objects on the disk."""
    if not SWIFT_PYTHON.exists():
        pytest.skip("no .venv-swift: `make swift` makes it")
    with swift_server(tmp_path_factory.mktemp("own-swift"), objects=disk.path / "objects") as server:
        yield server


@pytest.fixture(scope="module")
def proxy(network, own_swift):
    """Between the hosts and Swift: they reach nothing else of this machine."""
    with FaultProxy(own_swift.port, listener=network.listen()) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def environment(own_swift, proxy):
    """Of everything on the hosts."""
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return (
        quiet
        | own_swift.environment(proxy.url)
        | {"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.devnull, "RAY_health_check_timeout_ms": "1000"}
    )


@pytest.fixture(scope="module")
def cluster(network, environment):
    with host_cluster(network, environment) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def configuration(tiny_subject_directory, text_directory):
    """A run of one dictionary, with patience for many faults."""
    patient = {"pool": {"max_attempts": 20}}
    return {
        "subject": {"model": str(tiny_subject_directory)},
        "corpus": {"text": [str(text_directory)], "context_length": 32, "held_out_fraction": 0.2},
        "harvest": {"hookpoints": [HOOKPOINT], "sequences_per_shard": 16, "sequences_per_forward": 16, "num_workers": 2} | patient,
        "training": {
            "batch_size": 256,
            "epochs": 40,
            "log_every": 20,
            "dictionaries": [{"name": "topk", "sae": {"architecture": "topk", "d_sae": 64, "k": 4}, "optimizer": {"learning_rate": 3e-3}}],
        },
        "trainer": {"max_failures": 20},
        "evaluation": {"num_workers": 2} | patient,
        "interpretation": {"num_workers": 2, "max_features": 16, "controls": {"kinds": []}} | patient,
        "cluster": {"metrics_port": None},
    }


@pytest.fixture(scope="module")
def undisturbed(cluster, configuration, environment, tmp_path_factory) -> Place:
    """The output of the same run without a fault."""
    directory = tmp_path_factory.mktemp("undisturbed")
    output = Place(directory / "run")
    command = Command(cluster, configuration | {"output": output.url}, environment, directory)
    while not command.finished():
        time.sleep(0.1)
    assert command.gave_up == []
    return output


@dataclass
class Machines:
    """Where runs are, and what their faults strike."""

    cluster: HostCluster
    disk: Disk
    proxy: FaultProxy
    environment: dict[str, str]
    configuration: dict


@pytest.fixture(scope="module")
def machines(cluster, disk, proxy, environment, configuration) -> Machines:
    return Machines(cluster, disk, proxy, environment, configuration)


@pytest.fixture
def bucket(own_swift, monkeypatch):
    yield from new_bucket(own_swift, monkeypatch)


def test_whole_runs_through_every_fault_end_as_an_undisturbed_one(machines, undisturbed, bucket, run, tmp_path, struck, injected):
    """A quick machine finishes a run before all the faults have struck: the others strike the next one."""
    where, number = run
    schedule = EVERY_KIND if where == "mixed" else drawn_schedule(number, object_store=where == "objects")
    faults_of_all: Counter[str] = Counter()
    for again in range(MOST_RUNS):
        local, remote = machines.disk.path / f"{where}-{number}-{again}", f"{bucket}/{again}"
        output, store = {"files": (local, local / "store"), "objects": (f"{remote}/run", f"{remote}/store"), "mixed": (local, f"{remote}/store")}[
            where
        ]
        (directory := tmp_path / str(again)).mkdir()
        command = Command(machines.cluster, machines.configuration | {"output": str(output), "store": str(store)}, machines.environment, directory)
        faults = Faults(machines.cluster, machines.disk, machines.proxy, command, random.Random(f"{number} {again}"))
        requests_before = machines.proxy.faults.copy()
        try:
            schedule = strike(faults, schedule)
        finally:
            command.abandon()
            faults_of_all += faults.injected
            struck.update({(kind, where): count for kind, count in faults.injected.items()})
            injected.update({f"{fault} in a whole run": count for fault, count in (machines.proxy.faults - requests_before).items()})
            print(where, number, again, dict(faults.injected), faults.seconds_to_end, command.gave_up)
        assert_same(undisturbed, Place(output), Place(store))
        assert max(faults.seconds_to_end, default=0.0) <= END_SECONDS + BUSY_SECONDS
        shutil.rmtree(local, ignore_errors=True)  # the disk is small
        if not schedule:
            break
    assert schedule == [], f"{MOST_RUNS} runs ended before these faults had struck"
    assert faults_of_all.keys() == KINDS.keys() or where != "mixed"


def strike(faults: Faults, schedule: Schedule) -> Schedule:
    """Let a run meet its faults, and finish; returns the faults that came too late for it."""
    faults.proxy.rates = FAULTS
    faults.proxy.bytes_per_second = HARVEST_BYTES_PER_SECOND
    left = deque(schedule)
    try:
        with contextlib.suppress(RunEndedError):
            while left:
                stage, kind = left[0]
                if stage != "harvest":
                    faults.proxy.bytes_per_second = None
                faults.inject(kind, stage)
                left.popleft()
    finally:
        faults.proxy.rates, faults.proxy.bytes_per_second = {}, None
    while not faults.tend():
        time.sleep(0.1)
    return list(left)


def assert_same(undisturbed: Place, output: Place, store: Place) -> None:
    """Check the results of a run, and that nothing is lost, doubled or left over in its store."""
    assert different(undisturbed, output) == []
    assert different(undisturbed.child("store"), store) == []
    assert store.list() == undisturbed.child("store").list(), "no lease, nothing left over"
    assert verify_store(store) == []
    rows = [row for key in store.list("shards") for row in identities(store, HOOKPOINT, int(key[-12:-6]))]
    assert len(rows) == len(set(rows)), "no (sequence, position) twice"


def different(calm: Place, other: Place) -> list[str]:
    """The objects that are not the same; of records that also hold times, everything else is compared."""
    keys = [key for key in calm.list() if not key.startswith("store/") and key not in OF_TIME_AND_PLACE]
    return [key for key in keys if not other.exists(key) or timeless(key, calm.get(key)) != timeless(key, other.get(key))]


def timeless(key: str, data: bytes) -> object:
    if key.endswith((".json", ".jsonl")) and not key.startswith(("store/", "corpus/")):
        rows = [json.loads(line) for line in ([data] if key.endswith(".json") else data.splitlines())]
        return [without_times({name: value for name, value in row.items() if name not in OVER_TIMES}) for row in rows]
    return data


def without_times(value: object) -> object:
    if isinstance(value, list):
        return [without_times(each) for each in value]
    if isinstance(value, dict):
        return {name: without_times(each) for name, each in value.items() if name not in TIMES}
    return value
