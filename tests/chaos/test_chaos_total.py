"""How many faults there were in all."""

import pytest

from tests.chaos.faults import KINDS

AT_LEAST = 200
STRUCK_AT_LEAST = 40
STRUCK_AT_LEAST_IN_FIVE_ROUNDS = 300


def test_in_all_there_were_two_hundred_faults(injected, struck, record_property):
    if not struck and not any("harvesting" in kind for kind in injected):
        pytest.skip("only a part of the chaos ran")
    for kind, count in sorted(injected.items()):
        record_property(kind, count)
    assert injected.total() + struck.total() >= AT_LEAST


def test_every_kind_of_fault_struck_a_whole_run(struck, rounds, record_property):
    if not struck:
        pytest.skip("no whole run on a cluster of hosts")
    for (kind, where), count in sorted(struck.items()):
        record_property(f"{kind} ({where})", count)
    record_property("struck in all", struck.total())
    assert struck.total() >= (STRUCK_AT_LEAST_IN_FIVE_ROUNDS if rounds >= 5 else STRUCK_AT_LEAST)
    if rounds >= 5:
        expected = {(kind, where) for kind in KINDS for where in ("files", "objects") if where == "objects" or not kind.startswith("object store")}
        assert struck.keys() >= expected
