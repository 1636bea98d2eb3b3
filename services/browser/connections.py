"""Bounds on connections: their number, how long a request may take to arrive, and how long a reader may stand still.

aiohttp has no time limit before the first request and none for a reader that stops reading. So each connection goes through a wrapper that
ends it when its time is up. What a connection holds is bounded by that: one piece of an object in the server, one in the transport.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Iterator

MOST_CONNECTIONS = 512
REQUEST_SECONDS = 15.0  # for the head and body of a request, and between two requests of one connection
STALLED_SECONDS = 30.0  # without room for the next piece
MAX_LINE_BYTES = 4096  # of a URL; also of each header's name and value
MAX_HEADERS = 64
SEND_BUFFER_BYTES = 64 << 10


class Connections:
    """The open connections of one server."""

    def __init__(self) -> None:
        self._open: dict[asyncio.BaseTransport, _Connection] = {}

    def bounded(self, make_handler: Callable[[], asyncio.Protocol]) -> Callable[[], asyncio.Protocol]:
        """Wrap what makes aiohttp's handler of each connection."""
        return lambda: _Connection(self, make_handler())

    def add(self, transport: asyncio.BaseTransport, connection: "_Connection") -> bool:
        """Admit a connection unless there are too many."""
        if len(self._open) >= MOST_CONNECTIONS:
            return False
        self._open[transport] = connection
        return True

    def remove(self, transport: asyncio.BaseTransport) -> None:
        """Forget a connection that was closed."""
        self._open.pop(transport, None)

    @contextlib.contextmanager
    def at_work(self, transport: asyncio.BaseTransport | None) -> Iterator[None]:
        """While a request is answered its connection is not idle."""
        connection = self._open.get(transport) if transport is not None else None
        if connection is None:
            yield
            return
        connection.rest()
        try:
            yield
        finally:
            connection.wait(REQUEST_SECONDS)

    def abort(self) -> None:
        """End every connection at once."""
        for transport in list(self._open):
            if isinstance(transport, asyncio.Transport):
                reset(transport)


def reset(transport: asyncio.Transport) -> None:
    """End a connection and drop what the kernel still holds for a reader who does not read."""
    if (end := transport.get_extra_info("socket")) is not None:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


class _Connection(asyncio.Protocol):
    """One connection: passes everything on to its handler, and ends itself when its time is up."""

    def __init__(self, connections: Connections, handler: asyncio.Protocol) -> None:
        self._connections, self._handler = connections, handler
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def wait(self, seconds: float) -> None:
        """End the connection after some seconds, unless it does what is waited for."""
        self.rest()
        if self._transport is not None:
            self._deadline = asyncio.get_running_loop().call_later(seconds, reset, self._transport)

    def rest(self) -> None:
        """Wait for nothing."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not isinstance(transport, asyncio.Transport) or not self._connections.add(transport, self):
            transport.close()
            return
        self._transport = transport
        transport.set_write_buffer_limits(high=SEND_BUFFER_BYTES)
        self.wait(REQUEST_SECONDS)
        self._handler.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.rest()
        if self._transport is not None:
            self._connections.remove(self._transport)
            self._transport = None
            self._handler.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._transport is not None:
            self._handler.data_received(data)

    def eof_received(self) -> bool | None:
        return self._handler.eof_received() if self._transport is not None else False

    def pause_writing(self) -> None:
        self.wait(STALLED_SECONDS)
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        self.rest()
        self._handler.resume_writing()
