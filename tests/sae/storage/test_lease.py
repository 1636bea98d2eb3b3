"""One harvest fills a store at a time; a dead one is followed at once or after a while, and nobody's clock is trusted but one's own."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from sae.errors import LeaseError
from sae.storage import Place
from sae.storage import lease as lease_module
from sae.storage.lease import LeaseRecord, hold_lease, read_lease

HOLD = """
import sys, time
from sae.storage import Place
from sae.storage.lease import hold_lease
with hold_lease(Place(sys.argv[1])):
    print('held', flush=True)
    time.sleep(60)
"""


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path / "store")


def leave_lease(place: Place, number: int = 1, **changes) -> LeaseRecord:
    """What a holder on another machine wrote last."""
    record = LeaseRecord.mine().model_copy(update={"host": "elsewhere", "machine": "elsewhere", **changes})
    place.put_json(f"lease/{number:06d}.json", record.model_dump())
    return record


class BeatingElsewhere:
    """A holder on another machine, alive."""

    def __init__(self, place: Place, seconds: float) -> None:
        self.place, self.seconds, self.ended = place, seconds, threading.Event()
        self.record = leave_lease(place)
        self.thread = threading.Thread(target=self.beat)
        self.thread.start()

    def beat(self) -> None:
        while not self.ended.wait(self.seconds):
            self.record = self.record.model_copy(update={"heartbeat": self.record.heartbeat + 1})
            self.place.put_json("lease/000001.json", self.record.model_dump())

    def end(self) -> None:
        self.ended.set()
        self.thread.join()


def test_a_held_store_says_who_holds_it_and_a_released_one_holds_nothing(place):
    with hold_lease(place):
        found = read_lease(place)
        assert found.pid == os.getpid()
        with pytest.raises(LeaseError, match=rf"is being filled by another run, process {os.getpid()} on \S+ since 2\d\d\d-.*: wait for it, end it"):
            hold_lease(place).__enter__()
        assert read_lease(place) == found
    assert read_lease(place) is None
    assert place.list() == []
    with pytest.raises(KeyError, match="planted"), hold_lease(place):
        raise KeyError("planted")
    assert place.list() == []


def test_of_many_that_begin_at_once_one_gets_the_lease(place):
    barrier, held, refused = threading.Barrier(8), [], []

    def begin():
        barrier.wait()
        try:
            with hold_lease(place):
                held.append(1)
                time.sleep(0.5)
        except LeaseError:
            refused.append(1)

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(held), len(refused)) == (1, 7)
    assert place.list() == []


def test_a_killed_holder_on_this_machine_is_followed_at_once(place):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, place.url], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(LeaseError, match=f"process {holder.pid} "):
        hold_lease(place).__enter__()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    began = time.monotonic()
    with hold_lease(place):
        assert time.monotonic() - began < 2
        assert read_lease(place).pid == os.getpid()
    assert place.list() == []


def test_a_process_number_that_was_given_again_is_not_the_holder(place):
    record = LeaseRecord.mine()
    place.put_json("lease/000001.json", record.model_copy(update={"process_started": record.process_started - 1000}).model_dump())
    with hold_lease(place):
        assert read_lease(place).process_started == pytest.approx(record.process_started)


def test_a_living_holder_elsewhere_is_left_alone(place):
    other = BeatingElsewhere(place, 0.1)
    try:
        with pytest.raises(LeaseError, match="another run, process .* on elsewhere"):
            hold_lease(place, stale_seconds=5).__enter__()
        assert read_lease(place).host == "elsewhere"
    finally:
        other.end()


@pytest.mark.parametrize("since", ["1999-01-01T00:00:00+00:00", "2999-01-01T00:00:00+00:00"])
def test_a_silent_holder_elsewhere_is_displaced_after_a_while_whatever_its_clock_says(place, since):
    leave_lease(place, since=since, heartbeat=7)
    began = time.monotonic()
    with hold_lease(place, stale_seconds=0.8):
        assert 0.8 <= time.monotonic() - began < 5
        assert read_lease(place).host != "elsewhere"
    assert place.list() == []


def test_a_displaced_holder_notices_and_stops_and_leaves_the_other_in_peace(place):
    with hold_lease(place, heartbeat_seconds=0.05) as lease:
        lease.check()
        other = leave_lease(place, number=2)
        with pytest.raises(LeaseError, match=r"was taken over by process \d+ on elsewhere .*: this one stops; what it finished counts"):
            check_for(lease, seconds=5)
    assert read_lease(place) == other


def test_a_heart_that_beats_is_seen_by_others(place):
    with hold_lease(place, heartbeat_seconds=0.05):
        deadline = time.monotonic() + 5
        while read_lease(place).heartbeat < 3:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_defaults_leave_a_slow_store_several_beats():
    assert lease_module.STALE_SECONDS >= 5 * lease_module.HEARTBEAT_SECONDS


def check_for(lease, seconds):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        lease.check()
        time.sleep(0.01)
