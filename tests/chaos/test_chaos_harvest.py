"""Workers, nodes and drivers die by SIGKILL while the store itself misbehaves: the harvest ends as an undisturbed one."""

import collections
import random
import time

import pyarrow as pa
import pytest

from sae.storage import Place
from sae.store.reader import Store
from sae.store.verification import verify_store
from tests.servers.fault_proxy import FaultProxy

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1800)]
FAULTS = {"internal_error": 0.05, "slow_down": 0.05, "reset": 0.05, "lost_answer": 0.05, "truncated": 0.05}
FAULTS_AT_LEAST = 150  # of this test, of the 200 of all


def test_a_harvest_through_every_disaster_ends_as_an_undisturbed_one(swift, swift_directly, nodes, harvests, calm, injected, rounds):
    bucket, through = swift_directly
    store = Place(f"{bucket}/store")
    assert not store.exists("plan.json"), "this client looks at the store without the proxy"
    with FaultProxy(swift.port, FAULTS, seed=rounds) as proxy:
        through(proxy)
        if rounds > 1:
            proxy.rates["stall"] = 0.002
        cluster = nodes()
        disasters = collections.deque(["worker", "node", "driver"])
        for _ in range(rounds - 1):
            disasters.extend(random.Random(len(disasters)).sample(["worker", "worker", "node", "driver", "driver"], 5))
        step = Store(calm).plan.num_shards * 2 // (len(disasters) + 1)
        start = lambda: harvests.start(harvests.directory / "run", store.url, f"cluster.address={cluster.address}")  # noqa: E731
        harvest = start()
        for number, disaster in enumerate(disasters, start=1):
            wait_for_receipts(store, min(number * step, len(store.list("receipts")) + step), harvest, harvests)
            injected[f"killed {disaster}"] += 1
            if disaster == "worker":
                cluster.kill_worker()
            elif disaster == "node":
                cluster.kill_node()
                cluster.add()
            else:
                harvest.kill()
                harvest.wait(30)
                harvest = start()
        said = harvests.finish(harvest)
        assert harvest.returncode == 0, said
        injected.update({f"{fault} while harvesting": count for fault, count in proxy.faults.items()})
        assert proxy.faults.total() >= FAULTS_AT_LEAST, proxy.faults

    assert store.get("manifest.json") == calm.get("manifest.json")
    assert verify_store(store) == []
    assert store.list() == calm.list(), "no lease, no left-over"
    assert store.unfinished_uploads() == []
    for hookpoint in Store(calm).plan.hookpoints:
        rows = [row for shard in range(Store(calm).plan.num_shards) for row in identities(store, hookpoint, shard)]
        assert len(rows) == len(set(rows)), "no (sequence, position) twice"
        assert set(rows) == {row for shard in range(Store(calm).plan.num_shards) for row in identities(calm, hookpoint, shard)}, "none is missing"


def wait_for_receipts(store, number, harvest, harvests):
    deadline = time.monotonic() + 240
    while len(store.list("receipts")) < number and not store.exists("manifest.json"):
        if harvest.poll() is not None:
            raise AssertionError(harvests.finish(harvest))
        assert time.monotonic() < deadline, "the harvest does not get on"
        time.sleep(0.05)


def identities(place, hookpoint, shard) -> list[tuple[int, int]]:
    table = pa.ipc.open_file(place.open_buffer(f"shards/{hookpoint}/{shard:06d}.arrow")).read_all()
    return list(zip(table["sequence_id"].to_pylist(), table["position"].to_pylist(), strict=True))
