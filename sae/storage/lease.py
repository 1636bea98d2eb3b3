"""Leases: one run at a time fills a directory (a store, explanations in words), and none for ever.

A holder leaves `lease/000001.json` and counts up a heartbeat in it. Whoever finds the lease of another watches the count on his own clock:
if it moves, the holder lives and the newcomer is refused; if it does not for `STALE_SECONDS`, or the holder is a process of this machine that is
gone, the newcomer takes over by creating the next number, which only one can. No clocks of two machines are compared. A holder that finds a
higher number, or his own object gone, has been displaced and stops. At the end the lease is deleted.

(Where a store has no conditional writes, as Swift, two may create the same object within some milliseconds; the one who was
overwritten finds out at the next heartbeat.) The lease saves work and keeps plans apart. That a store comes out right does not rest on it:
shards are functions of the plan, so even two harvests that both believe in their lease write the same bytes.
"""

import contextlib
import logging
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psutil
from pydantic import NonNegativeInt

from sae.config import Config
from sae.errors import FailureError, InputError, LeaseError
from sae.storage import Place, to_json

LEASE_PREFIX = "lease"
HEARTBEAT_SECONDS = 5.0
STALE_SECONDS = 30.0  # six missed heartbeats: a store may be slow for a while
LOOK_SECONDS = 1.0
START_TOLERANCE_SECONDS = 2.0  # a process' start is reckoned from the boot, whose time is corrected with the clock

logger = logging.getLogger(__name__)


class LeaseRecord(Config):
    """Record of the holder of a lease."""

    holder: str
    host: str
    machine: str
    """Tells two machines (or containers) of one name apart; only within one do process numbers mean the same."""
    pid: int
    process_started: float
    """On the clock of its machine: a process number is given again."""
    since: str
    heartbeat: NonNegativeInt = 0

    @classmethod
    def mine(cls) -> "LeaseRecord":
        """Make the record of this process, a new holder each time."""
        return cls(
            holder=uuid.uuid4().hex,
            host=platform.node(),
            machine=_machine(),
            pid=os.getpid(),
            process_started=psutil.Process().create_time(),
            since=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def gone(self) -> bool:
        """Say whether the holder is a process of this machine that no longer runs."""
        if self.machine != _machine():
            return False
        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.process_started) > START_TOLERANCE_SECONDS or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True
        except psutil.Error:
            return False

    def here(self) -> bool:
        """Say whether the holder is a process of this machine that runs."""
        return self.machine == _machine() and not self.gone()

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"


class Lease:
    """A held lease: a thread keeps its heart beating until `release`.

    Args:
        place: what is filled.
        number: of the lease object.
        record: its content.
        heartbeat_seconds: from one beat to the next.
    """

    def __init__(self, place: Place, number: int, record: LeaseRecord, heartbeat_seconds: float) -> None:
        self.place, self.number, self.record = place, number, record
        self._displaced_by: str | None = None
        self._ended = threading.Event()
        self._beating = threading.Thread(target=self._beat, args=(heartbeat_seconds,), name="lease", daemon=True)
        self._beating.start()

    def check(self) -> None:
        """Go on only as the holder.

        Raises:
            LeaseError: another run has taken over.
        """
        if self._displaced_by:
            raise LeaseError(
                f"{self.place.url} was taken over by {self._displaced_by}, since this run gave no sign of life for a while: this one stops; "
                "what it finished counts"
            )

    def release(self) -> None:
        """End the heartbeat and delete the lease, unless it is no longer this holder's."""
        self._ended.set()
        self._beating.join()
        if self._displaced_by:
            return
        try:
            for number in range(1, self.number + 1):
                self.place.delete(_key(number))
        except FailureError as error:  # then it goes stale by itself; the run's own end matters more
            logger.warning("the lease of %s could not be deleted: %s", self.place.url, error)

    def _beat(self, seconds: float) -> None:
        while not self._ended.wait(seconds):
            try:
                if self._lost():
                    return
                self.record = self.record.model_copy(update={"heartbeat": self.record.heartbeat + 1})
                self.place.put(_key(self.number), to_json(self.record.model_dump()))
            except (FailureError, InputError) as error:
                # A store that does not answer now may answer at the next beat; if another took over meanwhile, that beat will tell.
                logger.warning("the lease of %s could not be renewed: %s", self.place.url, error)

    def _lost(self) -> bool:
        found = _latest(self.place)
        if found is not None and found[1].holder == self.record.holder:
            return False
        self._displaced_by = str(found[1]) if found else "another run, which has ended since,"
        return True


@contextlib.contextmanager
def hold_lease(place: Place, stale_seconds: float = STALE_SECONDS, heartbeat_seconds: float = HEARTBEAT_SECONDS) -> Iterator[Lease]:
    """Be the only run that fills a directory, within a `with`; the lease is deleted at its end, whatever ended it.

    Args:
        place: what is filled.
        stale_seconds: how long, on this process' clock, the heartbeat of another holder must stand still before he is displaced.
        heartbeat_seconds: from one beat of this holder to the next; well below the `stale_seconds` of others.

    Raises:
        LeaseError: another run fills it; the message says who.
    """
    mine = LeaseRecord.mine()
    lease = Lease(place, _take(place, mine, stale_seconds), mine, heartbeat_seconds)
    try:
        yield lease
    finally:
        lease.release()


def read_lease(place: Place) -> LeaseRecord | None:
    """Read the holder of a place's lease; None if there is none."""
    found = _latest(place)
    return found[1] if found else None


def _take(place: Place, mine: LeaseRecord, stale_seconds: float) -> int:
    """Create the lease, or the next one after a stale one; returns its number."""
    while True:
        number, seen = _latest(place) or (0, None)
        if seen is not None:
            if not _is_stale(place, seen, stale_seconds):
                continue  # released while we looked
            logger.warning("taking over %s from %s, who is gone or gives no sign of life", place.url, seen)
        if place.put_new(_key(number + 1), to_json(mine.model_dump())):
            return number + 1


def _is_stale(place: Place, seen: LeaseRecord, stale_seconds: float) -> bool:
    """Say whether the holder is known, or must be taken, to be gone; False if he has ended meanwhile.

    Raises:
        LeaseError: he is alive.
    """
    deadline = time.monotonic() + stale_seconds
    if not seen.gone() and not seen.here():
        logger.warning("%s is held by %s; watching up to %g s for a sign of life", place.url, seen, stale_seconds)
    while not seen.gone() and time.monotonic() < deadline:
        found = _latest(place)
        if found is None:
            return False
        if seen.here() or found[1] != seen:
            raise LeaseError(
                f"{place.url} is being filled by another run, {found[1]}: wait for it, end it, or choose another output "
                f"(were it dead, this one would take over within {stale_seconds:g} s)"
            )
        time.sleep(min(LOOK_SECONDS, stale_seconds / 4))
    return True


def _latest(place: Place) -> tuple[int, LeaseRecord] | None:
    while keys := place.list(LEASE_PREFIX):
        try:
            return int(keys[-1].rpartition("/")[2].removesuffix(".json")), LeaseRecord.parse(place.get_json(keys[-1]))
        except InputError:
            if place.exists(keys[-1]):  # not one of ours; else it was released between the listing and the reading
                raise
        except ValueError:
            raise InputError(f"{place.path(keys[-1])} is not a lease: delete it, or choose another output") from None
    return None


def _key(number: int) -> str:
    return f"{LEASE_PREFIX}/{number:06d}.json"


def _machine() -> str:
    """This machine since its start, and the namespace in which its processes are counted."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):  # only Linux has these
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)
