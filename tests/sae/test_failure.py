"""What the pool does about each kind of failure."""

import pytest

from sae.errors import CorruptObjectError, DivergenceError, HookpointError, StoppedError, StorageError, UserError, WorkerError
from sae.failure import Decision, WorkerLost, WorkerUnfit, decide, delay_seconds, final_error


@pytest.mark.parametrize(
    ("error", "attempts", "decision"),
    [
        (UserError("wrong key"), 1, Decision.RAISE),
        (HookpointError("no such hookpoint"), 1, Decision.RAISE),
        (HookpointError("no such hookpoint"), 3, Decision.RAISE),
        (CorruptObjectError("short shard"), 1, Decision.RAISE),
        (DivergenceError("NaN"), 1, Decision.RAISE),
        (WorkerError("a pool inside the worker gave up"), 1, Decision.RAISE),
        (StoppedError("stopped after step 7"), 1, Decision.RAISE),
        (WorkerUnfit("No module named 'monosem'"), 1, Decision.RAISE),
        (StorageError("503 slow down"), 1, Decision.RETRY),
        (StorageError("503 slow down"), 2, Decision.RETRY),
        (StorageError("disk full"), 3, Decision.GIVE_UP),
        (WorkerLost("SIGKILL"), 1, Decision.REPLACE),
        (WorkerLost("SIGKILL"), 3, Decision.GIVE_UP),
        (RuntimeError("CUDA error: device-side assert"), 1, Decision.REPLACE),
        (MemoryError(), 2, Decision.REPLACE),
        (KeyError("bug"), 3, Decision.GIVE_UP),
    ],
)
def test_decision_for_each_failure_with_three_attempts_permitted(error, attempts, decision):
    assert decide(error, attempts, max_attempts=3) is decision


def test_delays_double_from_half_a_second_up_to_half_a_minute():
    assert [delay_seconds(attempts) for attempts in (0, 1, 2, 3, 7, 1000)] == [0.0, 0.5, 1.0, 2.0, 30.0, 30.0]


def test_final_error_keeps_our_own_errors_and_explains_the_others():
    ours = StorageError("could not write x: no space left on device")
    assert final_error(ours, "task 3", 4) is ours
    theirs = final_error(KeyError("weights\nlong traceback"), "task 3", 4)
    assert isinstance(theirs, WorkerError)
    assert str(theirs).startswith("task 3 failed 4 times, the last time with KeyError: ")
    assert "\n" not in str(theirs)
