"""Whatever ends a command: one line, the exit code of its cause, and within the time that is promised; tried with real processes and signals."""

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from services.ending import End, Ending, afterwards

ROOT = Path(__file__).parents[2]
CODES = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}
PROGRAM = """
import signal, sys, threading, time
from services import ending
from services.ending import Ending, afterwards
def main():
    with Ending(limit_seconds={limit}) as this:
        try:
            print("begun", flush=True)
{body}
        except BaseException as error:
            end = this.end
            if end is None:
                raise
            this.say(end.message)
            return end.code
    return 0
sys.exit(main())
"""


def start(body, limit=8.0, **options):
    code = PROGRAM.format(limit=limit, body=textwrap.indent(textwrap.dedent(body).strip(), " " * 12))
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: [signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGHUP)], **options,
    )  # fmt: skip
    assert process.stdout.readline() == "begun\n"
    return process


def end(process, *signals, within=6.0):
    time.sleep(0.3)  # it is now in what the test is about
    began = time.monotonic()
    for name in signals:
        process.send_signal(getattr(signal, name))
        time.sleep(0.1)
    out, said = process.communicate(timeout=20)
    assert time.monotonic() - began < within
    return process.returncode, said, out


@pytest.mark.parametrize("name", CODES)
def test_a_signal_ends_it_with_one_line_and_its_code(name):
    code, said, out = end(start("try: time.sleep(60)\nfinally: print('cleaned')"), name)
    assert code == CODES[name]
    assert said.count("monosem: ") == 1
    assert said.startswith("monosem: interrupted")
    assert "run the same command again to continue" in said
    assert out == "cleaned\n"


def test_further_signals_do_not_break_the_clean_up():
    body = "try: time.sleep(60)\nfinally:\n    time.sleep(1)\n    print('cleaned')"
    code, said, out = end(start(body), "SIGTERM", "SIGINT", "SIGTERM", "SIGHUP")
    assert (code, out) == (143, "cleaned\n")
    assert said.count("\n") == 1


def test_a_clean_up_that_hangs_is_abandoned_with_the_same_line_and_code():
    code, said, _ = end(start("try: time.sleep(60)\nfinally: time.sleep(60)", limit=1.0), "SIGINT")
    assert code == 130
    assert said == "monosem: interrupted; run the same command again to continue\n"


def test_a_thread_that_holds_the_interpreters_exit_up_is_abandoned_after_clean_up():
    body = "threading.Thread(target=time.sleep, args=(60,)).start()\ntime.sleep(60)"
    code, said, _ = end(start(body), "SIGTERM", within=5.0)
    assert code == 143
    assert said.count("\n") == 1


def test_a_native_call_that_hangs_is_abandoned():
    body = "import hashlib\nhashlib.pbkdf2_hmac('sha256', b'', b'salt', 10**9)"  # minutes, and no Python code runs meanwhile
    assert end(start(body, limit=1.0), "SIGTERM")[0] == 143


def test_an_error_of_the_clean_up_does_not_replace_the_end():
    body = "with afterwards('this', lambda: 1 / 0):\n    time.sleep(60)"
    code, said, _ = end(start(body), "SIGTERM")
    assert code == 143
    assert said.count("monosem: ") == 1


def test_what_a_thread_finds_wrong_ends_it_with_exit_code_1():
    body = "threading.Timer(0.2, this.fail, ['the head is gone']).start()\ntime.sleep(60)"
    code, said, _ = end(start(body))
    assert code == 1
    assert said == "monosem: the head is gone; run the same command again to continue\n"


def test_a_signal_that_was_ignored_from_the_start_stays_ignored():
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(limit=8.0, body=" " * 12 + "time.sleep(1.5)")], cwd=ROOT, stdout=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )  # fmt: skip
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGHUP)
    assert process.wait(20) == 0
    process.stdout.close()


def test_afterwards_the_handlers_are_those_of_before():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with Ending():
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_the_step_after_a_failure_is_done_and_the_failure_is_what_is_raised():
    done = []
    with pytest.raises(KeyError), afterwards("x", lambda: done.append(1)):
        raise KeyError
    with pytest.raises(KeyError), afterwards("x", lambda: 1 / 0):
        raise KeyError
    with pytest.raises(ZeroDivisionError), afterwards("x", lambda: 1 / 0):
        pass
    assert done == [1]


def test_the_code_of_a_signal_is_the_shells():
    assert [End.by_signal(number).code for number in (2, 15, 1)] == [130, 143, 129]
