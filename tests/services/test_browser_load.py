"""Visitors who read slowly, never, or without end: they hold little memory, hold up nobody, and do not outlast the server's end."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from running_browser import RunningBrowser

from sae.storage import Place
from services.browser import connections
from services.browser.server import Listening

ROOT = Path(__file__).parents[2]
LARGE = "/interpretation/topk/features.parquet"


@pytest.fixture
def run(tmp_path):
    place = Place(tmp_path)
    place.put("report.html", b"<!doctype html>" + b"x" * (2 << 20))
    place.put_json("summary.json", {})
    place.put("interpretation/topk/features.parquet", os.urandom(1 << 20) * 16)
    return place


@pytest.fixture
def browser(run):
    running = RunningBrowser(run, Listening(port=0))
    yield running
    running.stop()


@contextlib.contextmanager
def serving(run):
    """The command in a process of its own, and its port."""
    command = [sys.executable, "-m", "jobs", "serve", run.url, "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        port = int(process.stderr.readline().strip().rstrip("/").rsplit(":", 1)[1])
        threading.Thread(target=process.stderr.read, daemon=True).start()
        try:
            yield process, port
        finally:
            process.kill()


def ask_and_do_not_read(port, path):
    """A visitor who asks for an object and then reads nothing."""
    visitor = socket.create_connection(("127.0.0.1", port), timeout=20)
    visitor.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return visitor


def get(port, path="/healthz"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, body


def test_slow_readers_hold_little_memory_delay_nobody_and_do_not_outlast_the_end(run):
    with serving(run) as (process, port), contextlib.ExitStack() as visitors:
        get(port, "/")
        before = psutil.Process(process.pid).memory_info().rss
        for number in range(60):
            visitors.enter_context(ask_and_do_not_read(port, LARGE if number % 2 else "/"))
        time.sleep(1.0)
        asked = time.monotonic()
        assert get(port, "/")[0] == 200
        assert time.monotonic() - asked < 5
        assert psutil.Process(process.pid).memory_info().rss - before < 48 << 20  # whole objects would be 30 × 16 + 30 × 2 MiB
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 143


def test_a_large_object_arrives_whole(run, browser):
    status, headers, body = browser.ask(LARGE)
    assert (status, body) == (200, run.get("interpretation/topk/features.parquet"))
    assert browser.ask(LARGE, If_None_Match=headers["ETag"])[::2] == (304, b"")
    status, headers, body = browser.ask(LARGE, "HEAD")
    assert (status, headers["Content-Length"], body) == (200, str(16 << 20), b"")


def test_an_object_that_shrinks_while_it_is_sent_is_not_taken_for_whole(run, browser):
    with ask_and_do_not_read(browser.port, LARGE) as visitor:
        visitor.recv(1000)
        run.put("interpretation/topk/features.parquet", b"x" * 1000)
        received = 0
        with contextlib.suppress(ConnectionError):
            while piece := visitor.recv(1 << 20):
                received += len(piece)
    assert received < 16 << 20


def test_a_visitor_who_asks_nothing_is_sent_away(run, browser, monkeypatch):
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.3)
    for start in (b"", b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: "):
        with socket.create_connection(("127.0.0.1", browser.port), timeout=20) as visitor:
            visitor.sendall(start)
            with contextlib.suppress(ConnectionError):
                assert visitor.recv(100) == b""
    assert browser.ask("/")[0] == 200


def test_a_reader_who_stands_still_is_sent_away(browser, monkeypatch):
    monkeypatch.setattr(connections, "STALLED_SECONDS", 0.3)
    with ask_and_do_not_read(browser.port, LARGE) as visitor:
        time.sleep(1.0)
        received = 0
        with contextlib.suppress(ConnectionError):
            while piece := visitor.recv(1 << 20):
                received += len(piece)
    assert received < 16 << 20


def test_an_answer_that_takes_its_time_is_not_cut(run, browser, monkeypatch):
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.3)
    with ask_and_do_not_read(browser.port, LARGE) as visitor:
        received = 0
        while received < 16 << 20:
            piece = visitor.recv(4 << 20)
            assert piece
            received += len(piece)
            time.sleep(0.02)


def test_too_many_connections_are_refused_and_the_others_answered(browser, monkeypatch):
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 5)
    with contextlib.ExitStack() as visitors:
        for _ in range(5):
            visitors.enter_context(socket.create_connection(("127.0.0.1", browser.port), timeout=20))
        time.sleep(0.2)
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            browser.ask("/")
    time.sleep(0.2)
    assert browser.ask("/")[0] == 200


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 10_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"".join(b"X%d: 1\r\n" % number for number in range(200)) + b"\r\n",
        b"\x00\xff\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
    ids=["url", "header", "headers", "bytes", "no host"],
)
def test_a_head_that_is_too_large_or_no_head_is_refused(browser, request_head):
    with socket.create_connection(("127.0.0.1", browser.port), timeout=20) as visitor:
        visitor.sendall(request_head)
        assert visitor.recv(100).split(b" ")[1] in (b"400", b"414", b"421", b"431")
    assert browser.ask("/")[0] == 200
