"""One end for every command: a signal, or a cluster that is gone, ends it with one line, a known exit code and within seconds.

SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt once, in the main thread, so that everything on its stack cleans up; further signals change
nothing. Clean-up may hang (a dead mount, a cluster that does not answer), and a native call may keep the main thread from noticing a signal. So a
thread learns of the signal from the interpreter's wake-up descriptor, which needs no Python code in the main thread, and after `LIMIT_SECONDS` it
ends the process itself, with the same line and exit code.
"""

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any, Self

from sae.log import log

LIMIT_SECONDS = 8.0
"""From the signal until what hangs is abandoned: 10 s are promised, and what supervises jobs often kills after 10."""
EXIT_SECONDS = 2.0
"""For the interpreter's own exit, once clean-up is done and the last line is printed: a library's thread may hold it up."""
CAUSES = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "interrupted by SIGTERM",
    signal.SIGHUP: "interrupted by SIGHUP, as when a terminal is closed",
}
ADVICE = "run the same command again to continue"


@dataclass(frozen=True)
class End:
    """End of a command.

    Attributes:
        message: its last line on standard error, without `monosem: `; None: it says nothing.
        code: its exit code.
    """

    message: str | None
    code: int

    @classmethod
    def by_signal(cls, number: int) -> "End":
        """The end by a signal: 128 + its number, as a shell would report it."""
        return cls(f"{CAUSES[signal.Signals(number)]}; {ADVICE}", 128 + number)


class Ending:
    """Context of a command: from its beginning, signals and `fail` end it cleanly. Does nothing outside the main thread.

    A signal that was ignored when the process was started (`nohup`, a background job of a script) stays ignored.

    Args:
        limit_seconds: of the clean-up.

    Attributes:
        end: how the command must end; None while nothing has asked for it.
    """

    def __init__(self, limit_seconds: float = LIMIT_SECONDS) -> None:
        self.limit_seconds = limit_seconds
        self.end: End | None = None
        self._raised, self._said, self._cleaned_up = False, threading.Lock(), threading.Event()
        self._handlers: dict[int, Any] = {}
        self._wake_up = -1

    def __enter__(self) -> Self:
        global _current
        if threading.current_thread() is not threading.main_thread():
            return self
        reader, self._wake_up = os.pipe()
        os.set_blocking(self._wake_up, False)
        threading.Thread(target=self._watch, args=(reader,), name="ending", daemon=True).start()
        for number in CAUSES:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._handlers[number] = signal.signal(number, self._interrupt)
        signal.set_wakeup_fd(self._wake_up, warn_on_full_buffer=False)
        atexit.register(self._leave)  # before Ray and torch register theirs, so it is called after them
        _current = self
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Restore what was before, unless the process is ending: then the handlers and the time limit stay in force until it has."""
        global _current
        if self._wake_up < 0 or self.end is not None:
            return
        _current = None
        atexit.unregister(self._leave)
        signal.set_wakeup_fd(-1)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        os.close(self._wake_up)  # ends the thread

    def fail(self, message: str) -> None:
        """End the command with exit code 1, from any thread."""
        if self.end is None:
            self.end = End(f"{message}; {ADVICE}", 1)
            os.write(self._wake_up, b"\0")
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    def say(self, message: str | None) -> None:
        """Print the command's last line once it has cleaned up, whoever says it first; the interpreter's exit then has `EXIT_SECONDS`."""
        self._cleaned_up.set()
        if message is not None and self._said.acquire(blocking=False):
            with contextlib.suppress(OSError, ValueError):  # the terminal may be gone
                sys.stderr.write(f"monosem: {' '.join(message.split())}\n")
                sys.stderr.flush()

    def _leave(self) -> None:
        """End the process here. What the interpreter does next, it does without its threads: nothing could end it where a library hangs."""
        if self.end is not None and self._cleaned_up.is_set():
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
            os._exit(self.end.code)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.end = self.end or End.by_signal(number)
        if not self._raised:
            self._raised = True
            raise KeyboardInterrupt

    def _watch(self, reader: int) -> None:
        while self.end is None and (data := os.read(reader, 64)):
            for number in data:
                if number in self._handlers:
                    self.end = self.end or End.by_signal(number)
        if self.end is not None:
            if self._cleaned_up.wait(self.limit_seconds):
                time.sleep(EXIT_SECONDS)
            self.say(self.end.message)
            os._exit(self.end.code)
        os.close(reader)


_current: Ending | None = None


def current() -> Ending | None:
    """The ending of the running command; None in a program that uses this package as a library."""
    return _current


def stop_requested() -> bool:
    """Say whether the running command is to end: for threads that no signal reaches."""
    return _current is not None and _current.end is not None


@contextlib.contextmanager
def afterwards(step: str, action: Callable[[], object]) -> Iterator[None]:
    """Do `action` when the `with` block ends. Where the block failed, its error is the one that matters: one of `action` is only logged.

    Args:
        step: the action's name in the log.
        action: what has to be done at the end.
    """
    try:
        yield
    except BaseException:
        try:
            action()
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not replace the error that is on its way
            log("clean_up_failed", step=step, error=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
        raise
    action()
