"""What was damaged after it was written is found, all of it and nothing else; a reader takes none of it for whole."""

import json
import random
import subprocess
import sys

import pytest

from jobs.cli import main
from sae.errors import CorruptObjectError, InputError
from sae.storage import Place
from sae.store.manifest import MANIFEST_KEY, PLAN_KEY, finish_store, missing_shards, receipt_key, shard_key, start_store, tokens_key
from sae.store.reader import Store
from sae.store.verification import verify_store
from tests.chaos.conftest import ROOT
from tests.sae.training.stores import planted_activations, planted_directions, write_store

DAMAGES = ("flipped", "truncated", "emptied", "missing", "exchanged", "grown")


@pytest.fixture
def store(place_url) -> Place:
    """On the local disk and on each of the servers."""
    return small_store(place_url)


def small_store(url) -> Place:
    """Twenty-four shards."""
    return write_store(Place(url), planted_activations(24 * 4 * 64, planted_directions(8, 4)), sequences_per_shard=4).place


def damage(place: Place, key: str, kind: str, draw: random.Random) -> None:
    data = place.get(key)
    at = draw.randrange(len(data))
    if kind == "missing":
        place.delete(key)
        return
    changed = {
        "flipped": data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :],
        "truncated": data[: len(data) - 1 - at // 2],
        "emptied": b"",
        "exchanged": draw.randbytes(len(data)),
        "grown": data + b"\0",
    }[kind]
    place.put(key, changed)


def named(problems) -> set[str]:
    return {key for problem in problems for key in [problem.split(" cannot be trusted")[0]]}


def test_every_planted_damage_is_found_and_nothing_else(store, injected, capsys):
    draw = random.Random(5)
    assert verify_store(store) == []
    plan = Store(store).plan
    shards = draw.sample(range(plan.num_shards), 3 * len(DAMAGES))
    hookpoint = draw.choice(sorted(plan.hookpoints))
    planted = [
        (key(shard), kind)
        for shard, (kind, key) in zip(
            shards,
            [(kind, key) for kind in DAMAGES for key in (lambda n: shard_key(hookpoint, n), tokens_key, lambda n: receipt_key(hookpoint, n))],
            strict=True,
        )
    ]
    for key, kind in planted:
        if kind == "flipped" and key.startswith("receipts/"):
            change_receipt(store, key)
        else:
            damage(store, key, kind, draw)
        injected[f"damaged by being {kind}"] += 1
    assert named(verify_store(store)) == {store.path(key) for key, _ in planted}
    assert main(["show", store.url, "--verify"]) == 1
    complaint = capsys.readouterr().err
    assert complaint.startswith(f"monosem: {len(planted)} damaged object(s): ")
    for key, _ in planted:
        assert key in complaint
    for key, kind in planted:
        if key.startswith("shards/") and kind != "grown":  # of an object that has grown, a ranged read sees the right bytes alone
            with pytest.raises(CorruptObjectError, match="cannot be trusted"):
                Store(store).table(hookpoint, int(key[-12:-6]))


def change_receipt(place: Place, key: str) -> None:
    """A receipt that is well-formed, and of another shard."""
    receipt = place.get_json(key)
    place.put_json(key, receipt | {"sha256": "0" * 64})


def test_a_manifest_that_was_changed_is_found(tmp_path, injected):
    store = small_store(tmp_path / "store")
    content = store.get_json(MANIFEST_KEY)
    whole = json.dumps(content)
    hookpoint = sorted(content["shards"])[0]
    for change in (
        lambda manifest: manifest.update(digest="0" * 64),
        lambda manifest: manifest["shards"][hookpoint][3].update(rows=1),
        lambda manifest: manifest["statistics"][hookpoint].update(variance=0.5),
        lambda manifest: manifest["plan"].update(seed=9),
    ):
        changed = json.loads(whole)
        change(changed)
        store.put_json(MANIFEST_KEY, changed)
        injected["changed manifest"] += 1
        assert store.path(MANIFEST_KEY) in named(verify_store(store))
    for data in (b"", whole[:1000].encode(), b"[]"):
        store.put(MANIFEST_KEY, data)
        injected["cut manifest"] += 1
        with pytest.raises(InputError, match=MANIFEST_KEY):
            verify_store(store)
        assert main(["show", store.url, "--verify"]) == 2
    store.put_json(MANIFEST_KEY, content)
    store.put_json(PLAN_KEY, store.get_json(PLAN_KEY) | {"seed": 9})
    injected["changed plan"] += 1
    assert named(verify_store(store)) == {store.path(PLAN_KEY)}


def test_a_full_disk_ends_a_harvest_and_room_lets_it_go_on(tmp_path, calm, injected):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", disk], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a RAM disk")
    try:
        copying = [sys.executable, "-c", COPY, str(calm.url), str(disk / "store")]
        full = subprocess.run(copying, capture_output=True, text=True, check=False, cwd=ROOT)
        injected["full disk"] += 1
        assert full.returncode == 1, full.stderr
        assert "No space left on device" in full.stderr
        place = Place(disk / "store")
        plan = Store(calm).plan
        assert not place.exists(MANIFEST_KEY)
        assert 0 < len(missing_shards(place, plan)) < plan.num_shards
        for entry in place.entries():
            assert entry.key.startswith("lease") or place.get(entry.key) == calm.get(entry.key), "whole or not there"
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        again = subprocess.run(copying, capture_output=True, text=True, check=False, cwd=ROOT)
        assert again.returncode == 0, again.stderr
        start_store(place, plan)
        finish_store(place, plan)
        assert place.get(MANIFEST_KEY) == calm.get(MANIFEST_KEY)
        assert verify_store(place) == []
    finally:
        subprocess.run(["umount", disk], check=True)


# Puts what a harvest puts, in its order, in a process of its own; what is there already is left.
COPY = """
import sys
from sae.errors import MonosemError
from sae.storage import Place
calm, place = Place(sys.argv[1]), Place(sys.argv[2])
try:
    place.put("plan.json", calm.get("plan.json"))
    objects = calm.list("tokens") + calm.list("shards") + calm.list("receipts")
    for key in sorted(objects, key=lambda key: (key.rpartition("/")[2][:6], key.startswith("receipts"))):
        if not place.exists(key):
            place.put(key, calm.get(key))
except MonosemError as error:
    sys.exit(str(error))
"""
