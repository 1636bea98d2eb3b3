"""What the chaos needs: a harvest from the command line, an undisturbed one to compare with, a cluster whose nodes can lose their power."""

import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import yaml
from ray.cluster_utils import Cluster

from sae.storage import Place
from tests.servers.fixtures import forget_clients, new_bucket

ROOT = Path(__file__).parents[2]
HOOKPOINTS = ["blocks.0.mlp.hook_post", "blocks.0.hook_resid_post"]
HARVEST = {"hookpoints": HOOKPOINTS, "sequences_per_shard": 16, "sequences_per_forward": 16, "num_workers": 2}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items) -> None:
    """What counts the faults goes last: by name it would come before most of them."""
    items.sort(key=lambda item: item.path.name == "test_chaos_total.py")


def pytest_terminal_summary(terminalreporter) -> None:
    """Print how often each kind of fault was injected."""
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        if "test_chaos_total" in report.nodeid and report.when == "call" and report.user_properties:
            terminalreporter.section(report.nodeid.rpartition("::")[2].replace("_", " "))
            for kind, count in report.user_properties:
                terminalreporter.line(f"{count:6d}  {kind}")


@pytest.fixture(scope="session")
def rounds(request) -> int:
    """How often each disaster strikes."""
    return request.config.getoption("--chaos-rounds")


@pytest.fixture(scope="session")
def injected() -> Counter:
    """Every fault that the chaos injected, by kind."""
    return Counter()


@pytest.fixture(scope="session")
def struck() -> Counter:
    """The faults that struck whole runs on a cluster of hosts, by kind and by where the run's files were."""
    return Counter()


@dataclass
class Harvests:
    """Starts `monosem harvest` as a user does, with one configuration for all."""

    configuration: dict
    directory: Path
    running: list[subprocess.Popen] = field(default_factory=list)

    def start(self, output: Path, store: str, *overrides: str) -> subprocess.Popen:
        path = self.directory / "run.yaml"
        path.write_text(yaml.safe_dump(self.configuration))
        command = [sys.executable, "-m", "jobs", "harvest", "-c", str(path), f"output={output}", f"store={store}", *overrides]
        log = open(self.directory / f"harvest-{len(self.running)}.log", "w+")  # noqa: SIM115 - the process' for as long as it lives
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        process.log = log
        self.running.append(process)
        return process

    def finish(self, process: subprocess.Popen, timeout: float = 240) -> str:
        """Wait for a harvest; what it said."""
        process.wait(timeout)
        process.log.seek(0)
        return process.log.read()

    def stop(self) -> None:
        for process in self.running:
            if process.poll() is None:
                process.kill()
                process.wait(10)
            process.log.close()


@pytest.fixture
def harvests(tiny_subject_directory, text_directory, tmp_path):
    """The command line, with a tiny subject and some hundred shards."""
    configuration = {
        "subject": {"model": str(tiny_subject_directory)},
        "corpus": {"text": [str(text_directory)], "context_length": 32, "held_out_fraction": 0.2},
        "harvest": HARVEST,
        "cluster": {"num_cpus": 2, "object_store_bytes": 100 * 2**20, "metrics_port": None},
    }
    harvests = Harvests(configuration, tmp_path)
    yield harvests
    harvests.stop()


@pytest.fixture(scope="session")
def calm(tmp_path_factory, tiny_subject_directory, tiny_corpus) -> Place:
    """The store that nothing disturbed: every shard in order, by one worker in this process."""
    from sae.store.harvest import HarvestConfig, HarvestWorker, SubjectProbe, make_plan
    from sae.store.manifest import finish_store, start_store
    from sae.subject.model import SubjectConfig

    subject = SubjectConfig(model=str(tiny_subject_directory))
    config = HarvestConfig(**HARVEST)
    plan = make_plan(config, tiny_corpus, subject, SubjectProbe(subject).run(config.hookpoints))
    place = Place(tmp_path_factory.mktemp("calm") / "store")
    start_store(place, plan)
    worker = HarvestWorker(plan, tiny_corpus.place.url, place.url, subject)
    for shard in range(plan.num_shards):
        worker.run(shard)
    finish_store(place, plan)
    return place


def copy_store(source: Place, target: Place) -> None:
    """Every object of a store, several at once."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: target.put(key, source.get(key)), source.list()))


class Nodes:
    """A Ray cluster of two nodes on this machine, each with one CPU."""

    def __init__(self) -> None:
        quiet = {"include_dashboard": False, "object_store_memory": 100 * 2**20}
        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **quiet}, shutdown_at_exit=False)
        self._quiet = {"object_store_memory": 100 * 2**20}
        self._second = None
        self.address = self._cluster.address
        self.add()

    def add(self) -> None:
        """Connect a second node."""
        self._second = self._cluster.add_node(num_cpus=1, **self._quiet)

    def kill_worker(self) -> None:
        """`kill -9` of an actor that is at work."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if found := [worker for node in (self._cluster.head_node, self._second) for worker in _below(node) if _is_at_work(worker)]:
                found[-1].kill()
                return
            time.sleep(0.01)
        raise TimeoutError("no worker at work")

    def kill_node(self) -> None:
        """The second node loses its power: all of its processes at once."""
        for process in _below(self._second):
            process.kill()
        self._cluster.remove_node(self._second, allow_graceful=False)

    def stop(self) -> None:
        self._cluster.shutdown()


@pytest.fixture
def nodes():
    """Builds the cluster when it is called, with the environment of that moment."""
    built = []

    def build() -> Nodes:
        built.append(Nodes())
        return built[-1]

    yield build
    for cluster in built:
        cluster.stop()


@pytest.fixture
def swift_directly(swift, monkeypatch):
    """A bucket on Swift and an environment that leads straight to it; `through(proxy)` leads new clients through a proxy."""
    for url in new_bucket(swift, monkeypatch):

        def through(proxy) -> None:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            forget_clients()

        yield url, through


def _below(node) -> list[psutil.Process]:
    processes = [psutil.Process(info.process.pid) for kind in node.all_processes.values() for info in kind if info.process.poll() is None]
    return [child for process in processes for child in process.children(recursive=True)] + processes


def _is_at_work(process: psutil.Process) -> bool:
    try:
        return process.cmdline()[0].startswith("ray::Host.run")
    except (psutil.Error, IndexError):
        return False
