"""How many faults there were in all."""

import pytest

AT_LEAST = 200


def test_in_all_there_were_two_hundred_faults(injected, record_property):
    if not any("harvesting" in kind for kind in injected):
        pytest.skip("only a part of the chaos ran")
    for kind, count in sorted(injected.items()):
        record_property(kind, count)
    print(dict(injected))
    assert injected.total() >= AT_LEAST
