"""Decisions about a failed task: pure functions, no clock and no Ray.

=======================================  ==========================================================
what happened                            what is done
=======================================  ==========================================================
UserError, CorruptObjectError,           RAISE: the same input fails the same way again, and who was stopped should stop
DivergenceError, StoppedError, WorkerError
StorageError                             RETRY: the worker is sound, the store may answer next time
WorkerUnfit: it lacks a package          RAISE: the next one is started from the same image or environment
the worker died or did not answer        REPLACE: a fresh worker does the task again
any other exception                      REPLACE: who knows what state the worker is in
the last permitted attempt failed        GIVE_UP
=======================================  ==========================================================
"""

from enum import Enum

from sae.errors import CorruptObjectError, DivergenceError, MonosemError, StoppedError, StorageError, UserError, WorkerError

FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 30.0


class Decision(Enum):
    """Next step for a task that failed, and for its worker."""

    RETRY = "the same worker tries again"
    REPLACE = "a fresh worker tries again"
    RAISE = "the error goes to the caller at once"
    GIVE_UP = "the error goes to the caller after the last attempt"


class WorkerLost(Exception):  # noqa: N818 - an observation of the pool, not an error that anyone raises
    """A worker process that died or stopped answering; the message says how it was noticed."""


class WorkerUnfit(Exception):  # noqa: N818 - an observation of the pool, too
    """A worker that cannot work where it was started, since a module or its whole environment is missing there; the message says which."""


def decide(error: BaseException, attempts: int, max_attempts: int) -> Decision:
    """Decide about a task whose latest attempt ended in `error`.

    Args:
        error: what the worker raised, or WorkerLost, or WorkerUnfit.
        attempts: attempts made so far, the failed one included.
        max_attempts: attempts that a task may take.
    """
    if isinstance(error, UserError | CorruptObjectError | DivergenceError | StoppedError | WorkerError | WorkerUnfit):
        return Decision.RAISE
    if attempts >= max_attempts:
        return Decision.GIVE_UP
    return Decision.RETRY if isinstance(error, StorageError) else Decision.REPLACE


def delay_seconds(attempts: int) -> float:
    """Compute the wait before the next attempt: 0 before the first, then 0.5 s, doubling up to 30 s."""
    if attempts == 0:
        return 0.0
    return float(min(FIRST_DELAY_SECONDS * 2 ** min(attempts - 1, 16), LONGEST_DELAY_SECONDS))


def final_error(error: BaseException, what: str, attempts: int) -> MonosemError:
    """The error the caller sees once no attempt is left: our own as it is, anything else as a WorkerError."""
    if isinstance(error, MonosemError):
        return error
    if isinstance(error, WorkerUnfit):
        return WorkerError(f"{what} cannot run where it was started: {error}. Install the same packages on every node, in its image or environment")
    text = str(error).strip()
    reason = text.splitlines()[0] if text else "no message"
    times = f"{attempts} times" if attempts > 1 else "once"
    return WorkerError(f"{what} failed {times}, the last time with {type(error).__name__}: {reason}. The worker's log has the details")
