"""Training workers live, get on and stop when they are told; whoever waits for them names those that do not."""

import contextlib
import os
import signal
import threading
import time

import pytest

from sae.errors import StoppedError
from services.ending import End, Ending
from services.training import watch as training_watch
from services.training.watch import IDLE_SECONDS, SILENT_SECONDS, Beat, Board, fit_watched

LIVES = Beat(rank=0, host="10.0.0.1", pid=7)


class Watch:
    """A watch without a cluster: says what it is given, and lets the training end once it is told to stop."""

    def __init__(self, *beats):
        self.said, self.stopped = list(beats), threading.Event()

    def beats(self):
        return self.said

    def stop(self):
        self.stopped.set()
        return bool(self.said)


class Gauge:
    def __init__(self):
        self.values = []

    def set(self, metric, value, /, **labels):
        assert (metric, labels) == ("monosem_workers_stuck", {"worker": "training"})
        self.values.append(value)


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(training_watch, "log", lambda event, **fields: lines.append((event, *fields.values())))
    monkeypatch.setattr(training_watch, "LOOK_SECONDS", 0.0)
    return lines


def test_what_training_returns_or_raises_comes_out_as_itself(said):
    assert fit_watched(lambda: 7, Watch(), None) == 7
    with pytest.raises(ZeroDivisionError):
        fit_watched(lambda: 1 / 0, Watch(), None)


def test_training_runs_on_another_thread_and_the_signal_handlers_stay(said):
    """Ray Train replaces the SIGINT handler wherever it runs in the main thread."""
    before = signal.getsignal(signal.SIGINT)
    assert fit_watched(lambda: threading.current_thread() is threading.main_thread(), Watch(), None) is False
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_stops_the_workers_waits_for_their_states_and_goes_on_its_way(said):
    watch, saved = Watch((0.0, LIVES)), threading.Event()

    def fit():
        watch.stopped.wait(10)
        time.sleep(0.2)
        saved.set()

    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        fit_watched(fit, watch, None)
    assert saved.is_set()


@pytest.mark.parametrize(("beats", "seconds"), [([(0.0, LIVES)], 0.5), ([], 0.0)])
def test_it_does_not_wait_longer_than_it_may_nor_for_workers_that_are_not_there(said, monkeypatch, beats, seconds):
    monkeypatch.setattr(training_watch, "STOP_SECONDS", 0.5)
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        fit_watched(lambda: time.sleep(5), Watch(*beats), None)
    assert seconds <= time.monotonic() - began - 0.2 < 4  # the fit itself takes 5


def test_on_a_thread_to_which_no_signal_comes_the_commands_end_stops_it(said):
    watch, found = Watch((0.0, LIVES)), []

    def train():
        with contextlib.suppress(StoppedError):
            fit_watched(lambda: watch.stopped.wait(10), watch, None)
            return
        found.append("stopped")

    with Ending() as ending:
        thread = threading.Thread(target=train)
        thread.start()
        ending.end = End.by_signal(signal.SIGTERM)
        thread.join(10)
        ending.end = None  # so that the context restores what was before
    assert found == ["stopped"]
    assert watch.stopped.is_set()


def test_a_silent_worker_and_one_that_makes_no_step_are_named_once_and_counted(said):
    silent, idle = Beat(1, "10.0.0.2", 8), Beat(2, "10.0.0.3", 9, idle_seconds=IDLE_SECONDS + 1)
    gauge = Gauge()
    fit_watched(lambda: time.sleep(1.2), Watch((0.5, LIVES), (SILENT_SECONDS + 1, silent), (0.5, idle)), gauge)
    assert sorted(said) == [
        ("worker_stuck", "training worker 1 (process 8 on 10.0.0.2) has given no sign of life for more than 15 s"),
        ("worker_stuck", "training worker 2 (process 9 on 10.0.0.3) has made no step for more than 50 s"),
    ]
    assert gauge.values == [2, 0]


def test_the_board_knows_the_last_beat_of_each_worker_and_passes_the_wish_to_stop_on():
    board = Board()
    assert board.beat(LIVES) is False
    board.beat(Beat(1, "10.0.0.2", 8))
    board.beat(Beat(0, "10.0.0.9", 10))  # restarted elsewhere: it takes the place of the one before
    assert [beat.pid for _, beat in board.beats()] == [10, 8]
    board.leave(1)
    assert [beat.pid for _, beat in board.beats()] == [10]
    board.stop()
    assert board.beat(LIVES) is True
