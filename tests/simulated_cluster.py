"""A cluster that is simulated in one process, in simulated time: workers that compute, write, hiccup and die, and a store that holds what they wrote.

The pool, the harvest's driver, lease, plan, receipts and manifest are the real ones; only Ray, the model and the bytes of activations are not.
"""

import functools
import heapq
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
from fsspec.spec import AbstractFileSystem

from sae.errors import StorageError
from sae.execution import QueueOptions
from sae.failure import WorkerLost
from sae.monitor import SILENT
from sae.storage import Place, sha256_hex, to_json
from sae.store.harvest import HarvestConfig, HarvestReport, fill_store
from sae.store.manifest import Receipt, StoreManifest, StorePlan, receipt_key
from sae.subject.model import SubjectConfig
from services.pool.actors import Answer
from services.pool.ray_pool import run_pool


@dataclass(frozen=True)
class Conditions:
    """How fast the simulated workers are, and how often something goes wrong; seconds."""

    start: float = 60.0
    compute: float = 4.0
    put: float = 1.0
    lifetime: float = 7200.0
    """Mean time until a worker's node is taken away."""
    hiccups: float = 0.001
    """Share of tasks that end in a StorageError."""
    seed: int = 0


@dataclass(eq=False)
class SimulatedActor:
    dies_at: float
    free_at: float = 0.0
    alive: bool = True
    open: set[int] = field(default_factory=set)


class SimulatedCluster:
    """`services.pool.actors.Actors` in simulated time.

    Args:
        place: where receipts go.
        plan: of the store that is filled.
        conditions: of the workers.
    """

    def __init__(self, place: Place, plan: StorePlan, conditions: Conditions) -> None:
        self.place, self.plan, self.conditions = place, plan, conditions
        self.random = random.Random(conditions.seed)
        self.clock, self.requests, self.deaths, self.hiccups, self.living, self.most = 0.0, 0, 0, 0, 0, 0
        self.seconds_inside = 0.0
        """What the simulation itself took, of real time."""
        self._events: list[tuple[float, int, SimulatedActor, Any]] = []

    def start(self, worker: type, arguments: tuple[Any, ...], wait_seconds: float) -> tuple[SimulatedActor, int]:
        began = time.perf_counter()
        self.living += 1
        self.most = max(self.most, self.living)
        actor = SimulatedActor(self.clock + self.random.expovariate(1 / self.conditions.lifetime))
        actor.free_at = self.clock + wait_seconds + self.conditions.start * self.random.uniform(0.5, 1.5)
        self._ask(actor, actor.free_at, None)
        heapq.heappush(self._events, (actor.dies_at, -1 - self.requests, actor, "death"))
        self.seconds_inside += time.perf_counter() - began
        return actor, self.requests

    def run(self, actor: SimulatedActor, task: int, wait_seconds: float) -> int:
        began = time.perf_counter()
        computed = max(actor.free_at, self.clock + wait_seconds) + self.conditions.compute * self.random.uniform(0.8, 1.2)
        actor.free_at = computed  # the next one computes while this one is written
        self._ask(actor, computed + self.conditions.put * self.random.uniform(0.5, 1.5), task)
        self.seconds_inside += time.perf_counter() - began
        return self.requests

    def ping(self, actor: SimulatedActor) -> int:
        self._ask(actor, self.clock, "ping")
        return self.requests

    def wait(self, timeout_seconds: float) -> list[Answer]:
        began = time.perf_counter()
        limit, answers = self.clock + timeout_seconds, list[Answer]()
        while not answers and self._events and self._events[0][0] <= limit:
            self.clock, request, actor, task = heapq.heappop(self._events)
            if task == "death" and actor.alive:
                self.deaths += 1
                answers = [Answer(each, error=WorkerLost("the node was taken away")) for each in sorted(actor.open)]
                self._end(actor)
            elif request in actor.open and not actor.alive:
                answers = [Answer(request, error=WorkerLost("it was dead when it was asked"))]
                actor.open.clear()
            elif request in actor.open:
                actor.open.discard(request)
                answers = [self._answer(request, task)]
        if not answers:
            self.clock = limit
        self.seconds_inside += time.perf_counter() - began
        return answers

    def kill(self, actor: SimulatedActor) -> None:
        self._end(actor)

    def now(self) -> float:
        return self.clock

    def room(self) -> str:
        return "the simulated cluster has room"

    def shut_down(self, actors: set[SimulatedActor]) -> None:
        for actor in actors:
            self._end(actor)

    def _ask(self, actor: SimulatedActor, at: float, task: Any) -> None:
        self.requests += 1
        actor.open.add(self.requests)
        heapq.heappush(self._events, (at, self.requests, actor, task))

    def _end(self, actor: SimulatedActor) -> None:
        self.living -= actor.alive
        actor.alive = False
        actor.open.clear()

    def _answer(self, request: int, task: Any) -> Answer:
        if task is None or task == "ping":
            return Answer(request)
        if self.random.random() < self.conditions.hiccups:
            self.hiccups += 1
            return Answer(request, error=StorageError("503 from the simulated store"))
        first, last = self.plan.shard_range(task)
        for hookpoint in self.plan.hookpoints:
            self.place.put(receipt_key(hookpoint, task), receipt_bytes(self.plan, task))
        tokens = (last - first) * self.plan.context_length
        return Answer(request, HarvestReport(task, tokens, tokens - (last - first), 2 * tokens, (self.conditions.put,)))


@functools.cache
def _receipt_template(plan: StorePlan, sequences: int) -> str:
    [d_in] = plan.hookpoints.values()
    draw = random.Random(0)
    rows = sequences * (plan.context_length - 1)
    receipt = Receipt(
        rows=rows, bytes=rows * (2 * d_in + 16), sha256="0" * 64, checksum="0" * 32, tokens_sha256="0" * 64,
        sum=[draw.uniform(0, rows) for _ in range(d_in)], sum_squared_norm=1.5 * rows * d_in, sum_norm=rows * d_in**0.5,
        position_rows=[0] + [sequences] * (plan.context_length - 1),
        position_sum_norm=[draw.uniform(0, sequences) for _ in range(plan.context_length)],
    )  # fmt: skip
    return to_json(receipt.model_dump(mode="json")).decode()


def receipt_bytes(plan: StorePlan, shard: int) -> bytes:
    """A receipt of a shard that nobody computed; it differs from others by its digests."""
    first, last = plan.shard_range(shard)
    content = _receipt_template(_Hashed(plan), last - first).replace('"' + "0" * 64, f'"{shard + 1:064x}')
    return content.replace("{", f'{{"digest": "{sha256_hex(content.encode())}",', 1).encode()


def _objects_of(receipt: str, plan: StorePlan) -> dict[str, dict[str, Any]]:
    """The shard and the sequences that lie in a store next to a receipt, as in a listing."""
    first, last = plan.shard_range(int(Path(receipt).stem))
    [d_in] = plan.hookpoints.values()
    shard = receipt.replace("/receipts/", "/shards/").replace(".json", ".arrow")
    tokens = f"{receipt.partition('/receipts/')[0]}/tokens/{Path(receipt).stem}.arrow"
    return {
        shard: {"size": (last - first) * (plan.context_length - 1) * (2 * d_in + 16)},
        tokens: {"size": (last - first) * (4 * plan.context_length + 8)},
    }


class _Hashed:
    """A plan as a key of a cache."""

    def __init__(self, plan: StorePlan) -> None:
        self.plan, self.digest = plan, id(plan)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plan, name)

    def __hash__(self) -> int:
        return self.digest

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hashed) and other.digest == self.digest


class ReceiptFiles(AbstractFileSystem):
    """A remote store in memory. Of receipts it keeps the names, and makes their bytes when they are read: 125,000 would fill what is measured."""

    protocol = "simulated"
    cachable = False
    files: dict[str, bytes] = {}  # noqa: RUF012 - one store for all instances, as a real one
    plan: StorePlan | None = None

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        if mode == "create" and path in self.files:
            raise FileExistsError(path)
        self.files[path] = b"" if "/receipts/" in path else value

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        if path not in self.files:
            raise FileNotFoundError(path)
        found = receipt_bytes(self.plan, int(Path(path).stem)) if "/receipts/" in path else self.files[path]
        return found[start:end]

    def exists(self, path: str, **options: Any) -> bool:
        return path in self.files

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        return {"name": path, "size": len(self.cat_file(path)), "type": "file"}

    def find(self, path: str, detail: bool = False, **options: Any) -> Any:
        found = {name: {"size": 0} for name in list(self.files) if name.startswith(f"{path}/")}
        for receipt in [name for name in found if "/receipts/" in name]:
            found |= _objects_of(receipt, self.plan)
        return found

    def rm_file(self, path: str) -> None:
        del self.files[path]


def simulated_store(plan: StorePlan, name: str) -> Place:
    """An empty store of `plan` whose receipts take no memory."""
    fsspec.register_implementation("simulated", ReceiptFiles, clobber=True)
    ReceiptFiles.plan, ReceiptFiles.files = plan, {}
    return Place(f"simulated://{name}")


def harvest_plan(tokens: int, d_in: int = 512, context_length: int = 256, sequences_per_shard: int = 256) -> StorePlan:
    """The plan of a store of so many tokens at one hookpoint."""
    return StorePlan(
        subject="simulated", subject_digest="0", corpus_digest="0", context_length=context_length, hookpoints={"blocks.0.mlp.hook_post": d_in},
        num_sequences=-(-tokens // context_length), sequences_per_shard=sequences_per_shard, special_token_ids=[0],
    )  # fmt: skip


def simulate_harvest(
    place: Place, plan: StorePlan, num_workers: int, conditions: Conditions, monitor: Any = None
) -> tuple[StoreManifest, SimulatedCluster]:
    """The harvest's own driver from the first shard to the manifest, on a simulated cluster."""
    cluster = SimulatedCluster(place, plan, conditions)
    config = HarvestConfig(num_workers=num_workers, pool=QueueOptions(queue=2, max_attempts=20))
    monitor = monitor or SILENT
    executor = SimpleNamespace(monitor=monitor, run=functools.partial(run_pool, monitor=monitor, actors=cluster))
    manifest = fill_store(config, plan, "simulated://corpus", place.url, SubjectConfig(), executor)
    return manifest, cluster
