"""Watching the Ray cluster from the driver: a head that does not answer, or an own node that is lost, ends the command with one line.

Without it Ray ends the process itself after RAY_gcs_rpc_server_reconnect_timeout_s, wherever it is; and where the own node is lost, nothing ends at
all, since actors wait for room.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from enum import Enum

import ray

LOOK_SECONDS = 3.0
ANSWER_SECONDS = 3.0
RAY_GIVES_UP_SECONDS = 60.0  # Ray's default
EARLIER_SECONDS = 20.0  # than Ray: for the last look and for the clean-up
FEWEST_FAILURES = 3  # one after another: a driver that was stopped for a while must not take its own pause for the head's


class Look(Enum):
    """Findings of a look at the cluster."""

    WELL = "the head answers, and this process' node is alive"
    SILENT = "the head does not answer"
    NODE_LOST = "the head says that this process' node is dead"


def patience_seconds() -> float:
    """Compute how long the head may not answer: longer where the user lets Ray wait longer, for a head that is restarted during a job."""
    gives_up = os.environ.get("RAY_gcs_rpc_server_reconnect_timeout_s", RAY_GIVES_UP_SECONDS)  # noqa: SIM112 - Ray spells it so
    return max(10.0, float(gives_up) - EARLIER_SECONDS)


class HeadWatch:
    """Judges look after look; needs no cluster.

    Args:
        patience_seconds: without an answer until the head is given up.
        now: seconds on a clock that only goes forward.
    """

    def __init__(self, patience_seconds: float, now: float) -> None:
        self.patience_seconds = patience_seconds
        self._answered, self._failures = now, 0

    def verdict(self, look: Look, now: float) -> str | None:
        """Why the command must end; None while it may go on."""
        if look is Look.NODE_LOST:
            return "the Ray cluster counts this machine's node as dead (its raylet ended, or the network between it and the head)"
        if look is Look.WELL:
            self._answered, self._failures = now, 0
            return None
        self._failures += 1
        if self._failures < FEWEST_FAILURES or now - self._answered < self.patience_seconds:
            return None
        return f"the Ray cluster's head (GCS) has not answered for {now - self._answered:.0f} s; start the cluster again where it is gone"


@contextlib.contextmanager
def head_watched(fail: Callable[[str], None]) -> Iterator[None]:
    """Look at the connected cluster every few seconds, from a thread, until the `with` block ends.

    Args:
        fail: told once why the command must end.
    """
    over = threading.Event()
    look = _looker()

    def watch() -> None:
        judge = HeadWatch(patience_seconds(), time.monotonic())
        while not over.wait(LOOK_SECONDS):
            if reason := judge.verdict(look(), time.monotonic()):
                fail(reason)
                return

    threading.Thread(target=watch, name="head-watch", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _looker() -> Callable[[], Look]:
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled; no public call has a time limit of its own
    from ray.core.generated.gcs_pb2 import GcsNodeInfo
    from ray.core.generated.gcs_service_pb2 import GetAllNodeInfoRequest

    context = ray.get_runtime_context()
    client = GcsClient(address=context.gcs_address)
    own = GetAllNodeInfoRequest.NodeSelector(node_id=ray.NodeID.from_hex(context.get_node_id()).binary())

    def look() -> Look:
        try:
            found = client.get_all_node_info(timeout=ANSWER_SECONDS, node_selectors=[own], state_filter=GcsNodeInfo.GcsNodeState.DEAD)
        except Exception:  # noqa: BLE001 - whatever it is, there was no answer
            return Look.SILENT
        return Look.NODE_LOST if found else Look.WELL

    return look
