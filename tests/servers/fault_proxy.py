"""An HTTP proxy that stands before a server and makes trouble: errors, stalls, resets, bodies cut short, a slow line.

It runs in a thread of the test. Which request meets which fault is drawn from a fixed seed, in the order in which requests arrive.
"""

import asyncio
import contextlib
import random
import socket
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Self

ANSWERS = {
    "internal_error": (500, "Internal Server Error", "InternalError", "We encountered an internal error. Please try again."),
    "slow_down": (503, "Slow Down", "SlowDown", "Please reduce your request rate."),
    "expired_token": (400, "Bad Request", "ExpiredToken", "The provided token has expired."),
    "skewed_clock": (403, "Forbidden", "RequestTimeTooSkewed", "The difference between the request time and the current time is too large."),
}
# What may befall a request. The two last answers are no passing trouble. `reset` closes the connection before the server hears of it,
# `lost_answer` after it acted, `truncated` half-way through its answer; `stall` answers nothing until the client gives up.
FAULTS = (*ANSWERS, "reset", "lost_answer", "truncated", "stall")
CHUNK = 1 << 16


class FaultProxy:
    """Passes requests on to `127.0.0.1:upstream_port`, but for the faults.

    Args:
        upstream_port: of the server, on loopback.
        rates: fault → its share of all requests; the shares add up to at most 1. May be changed while the proxy runs.
        seed: of the draw.
        bytes_per_second: of the whole line, both directions and all connections together; None leaves it as fast as it is. May be changed
            while the proxy runs.
        listener: where it listens; None: a free port of loopback.

    Attributes:
        url: for clients.
        faults: how many of each fault were injected.
        requests: how many requests arrived.
        passed_bytes: bodies that went through, both directions.

    Example::

        with FaultProxy(server.port, {"slow_down": 0.1, "reset": 0.05}) as proxy:
            ...  # talk to proxy.url
        assert proxy.faults["reset"]
    """

    def __init__(
        self,
        upstream_port: int,
        rates: Mapping[str, float] | None = None,
        seed: int = 0,
        bytes_per_second: float | None = None,
        listener: socket.socket | None = None,
    ) -> None:
        self.upstream_port, self.rates, self.bytes_per_second = upstream_port, dict(rates or {}), bytes_per_second
        self.faults: Counter[str] = Counter()
        self.requests = self.passed_bytes = 0
        self._listener = listener or socket.create_server(("127.0.0.1", 0))
        self.url = "http://{}:{}".format(*self._listener.getsockname())
        self._draw, self._line_free_at = random.Random(seed), 0.0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._speaks = asyncio.Event()
        self._speaks.set()

    def __enter__(self) -> Self:
        self._thread.start()
        listening = asyncio.start_server(self._serve, sock=self._listener, limit=1 << 18)
        self._server = asyncio.run_coroutine_threadsafe(listening, self._loop).result(10)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    @contextlib.contextmanager
    def silence(self) -> Iterator[None]:
        """Answer nothing during the `with` block; whoever still waits is answered afterwards."""
        self._loop.call_soon_threadsafe(self._speaks.clear)
        try:
            yield
        finally:
            self._loop.call_soon_threadsafe(self._speaks.set)

    async def _close(self) -> None:
        self._server.close()
        serving = asyncio.all_tasks() - {asyncio.current_task()}
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    def _next_fault(self) -> str | None:
        self.requests += 1
        at = self._draw.random()
        for fault, rate in self.rates.items():
            at -= rate
            if at < 0:
                self.faults[fault] += 1
                return fault
        return None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader = server_writer = None
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await self._speaks.wait()
                fault, fields = self._next_fault(), _fields(head)
                if fields.get(b"expect", b"").lower() == b"100-continue":
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                    head = b"\r\n".join(line for line in head.split(b"\r\n") if not line.lower().startswith(b"expect:"))
                if fault == "reset":
                    return
                if fault in ANSWERS or fault == "stall":
                    await self._pump(reader, None, fields)
                    if fault == "stall":
                        await reader.read(1)  # ends when the client closes the connection
                        return
                    writer.write(_answer(fault, bodiless=head.startswith(b"HEAD ")))
                    await writer.drain()
                    continue
                if server_writer is None:
                    server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.upstream_port, limit=1 << 18)
                server_writer.write(head)
                await self._pump(reader, server_writer, fields)
                alive = await self._pass_answer(head.startswith(b"HEAD "), server_reader, writer, fault)
                if not alive:
                    return
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass  # one of the two sides went away
        finally:
            for side in (writer, server_writer):
                if side is not None and not side.is_closing():
                    side.transport.abort()

    async def _pass_answer(self, bodiless: bool, server: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: str | None) -> bool:
        """Pass an answer on; says whether the connection can be used again."""
        head = await server.readuntil(b"\r\n\r\n")
        while head.startswith(b"HTTP/1.1 100"):
            head = await server.readuntil(b"\r\n\r\n")
        if fault == "lost_answer":
            return False
        fields = _fields(head)
        if bodiless or head[9:12] in (b"204", b"304"):
            length: int | None = 0
        else:
            length = None if b"chunked" in fields.get(b"transfer-encoding", b"") else int(fields.get(b"content-length", 0))
        writer.write(head if fault != "truncated" or length != 0 else head[: len(head) // 2])
        if fault == "truncated":
            await self._copy(server, writer, 1 if length is None else length // 2)
            await writer.drain()
            writer.close()  # what was written still arrives, unlike after an abort
            return False
        await self._pump(server, writer, fields, length)
        return fields.get(b"connection", b"").lower() != b"close"

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter | None, fields: dict[bytes, bytes], length: int | None = -1
    ) -> None:
        """Pass a body on, or swallow it where there is no sink."""
        if length == -1:
            length = None if b"chunked" in fields.get(b"transfer-encoding", b"") else int(fields.get(b"content-length", 0))
        if length is not None:
            await self._copy(source, sink, length)
            return
        while True:
            line = await source.readuntil(b"\r\n")
            if sink:
                sink.write(line)
            size = int(line.split(b";")[0], 16)
            await self._copy(source, sink, size + 2)
            if size == 0:
                return

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter | None, length: int) -> None:
        while length > 0:
            data = await source.read(min(CHUNK, length))
            if not data:
                raise ConnectionError
            length -= len(data)
            await self._wait_for_the_line(len(data))
            if sink:
                self.passed_bytes += len(data)
                sink.write(data)
                await sink.drain()

    async def _wait_for_the_line(self, size: int) -> None:
        if self.bytes_per_second:
            now = self._loop.time()
            self._line_free_at = max(now, self._line_free_at) + size / self.bytes_per_second
            await asyncio.sleep(self._line_free_at - now)


def _fields(head: bytes) -> dict[bytes, bytes]:
    pairs = (line.partition(b":") for line in head.split(b"\r\n")[1:])
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _answer(fault: str, bodiless: bool) -> bytes:
    status, reason, code, message = ANSWERS[fault]
    body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'.encode()
    head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    return head if bodiless else head + body
