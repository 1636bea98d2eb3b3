"""Retries: how often a store is asked again, and the waits between.

A request is given up after 9 attempts, and none begins after 2 minutes (one that is silent ends after 15 s, an upload after 15 s and
its size at 1 MB/s): pauses of 0.1 s, 0.2 s, 0.4 s and so on up to 10 s (23 s
in all, each shortened at random by up to a half, so that many workers do not come back at the same moment).
"""

import random
import time
from collections.abc import Callable
from typing import TypeVar

ATTEMPTS = 9
ATTEMPTS_BEFORE_CONTACT = 4  # as long as nothing has ever answered, a wrong address is likelier than a passing trouble
LONGEST_SECONDS = 120.0
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 10.0

Result = TypeVar("Result")


class TruncatedBodyError(ConnectionError):
    """Fewer bytes arrived than were asked for and are there."""


def persistently(call: Callable[[], Result], passes: Callable[[BaseException], bool], attempts: Callable[[], int] = lambda: ATTEMPTS) -> Result:
    """The result of `call`, which is repeated as long as its error is one that passes.

    Args:
        call: one request; it must be safe to make it twice.
        passes: whether an error may be gone the next time.
        attempts: how many are allowed, asked after each failure.

    Raises:
        Exception: the last error, as it was raised.
    """
    began, done = time.monotonic(), 0
    while True:
        try:
            return call()
        except Exception as error:
            done += 1
            if not passes(error) or done >= attempts() or time.monotonic() - began > LONGEST_SECONDS:
                raise
        time.sleep(pause_seconds(done))


def pause_seconds(failures: int) -> float:
    """The pause after so many failures in a row, at random between half and all of its length."""
    longest = min(FIRST_PAUSE_SECONDS * 2 ** (failures - 1), LONGEST_PAUSE_SECONDS)
    return longest * random.uniform(0.5, 1.0)  # not from a seed: workers of one seed must not wait alike
