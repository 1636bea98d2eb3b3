"""Serving the browser until it is told to stop."""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web

from sae.errors import InputError
from sae.log import log
from sae.run.layout import REPORT_KEY
from sae.storage import Place
from services.browser.app import BrowserMetrics, Surroundings, browser_app, metrics_app
from services.browser.connections import MAX_HEADERS, MAX_LINE_BYTES, REQUEST_SECONDS, Connections
from services.browser.hosts import allowed_hosts, is_loopback

SHUTDOWN_SECONDS = 2.0  # for answers that are under way
MakeApp = Callable[[Place, Surroundings], web.Application]


@dataclass(frozen=True)
class Listening:
    """Where the browser listens.

    Attributes:
        host: an address of this machine; loopback answers only requests that name this machine.
        port: TCP port; 0 takes a free one.
        metrics_port: a port of its own for `/metrics`; None answers it on the same port.
        allowed_hosts: names that requests may give as their host, besides addresses and `host`.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    metrics_port: int | None = None
    allowed_hosts: list[str] = field(default_factory=list)


def serve(run: Place, listening: Listening, wait: bool = False) -> None:
    """Show a run until a signal ends the command.

    Args:
        run: the run directory.
        listening: where to listen.
        wait: start although there is no report yet, and answer 404 until there is one.

    Raises:
        InputError: the run holds no report yet, or the address cannot be had.
    """
    if not wait and not run.exists(REPORT_KEY):
        raise InputError(f"{run.url} holds no report.html: check the path, or run `monosem report` with output={run.url}")
    serve_app(run, listening, browser_app, "reads the report")


def serve_app(run: Place, listening: Listening, make_app: MakeApp, visitor_does: str) -> None:
    """Serve an application of a run until a signal ends the command.

    Args:
        run: the run directory.
        listening: where to listen.
        make_app: makes it, given the run and the server's surroundings.
        visitor_does: what visitors can do, for the warning where they may come from other machines.

    Raises:
        InputError: the address cannot be had.
    """
    asyncio.run(_serve(run, listening, make_app, visitor_does))


async def _serve(run: Place, listening: Listening, make_app: MakeApp, visitor_does: str) -> None:
    servers: list[RunningServer] = []
    try:
        await start(run, listening, servers, make_app, visitor_does)
        await asyncio.get_running_loop().create_future()  # until a signal's KeyboardInterrupt: see services.ending
    finally:
        await asyncio.gather(*(server.stop() for server in servers))


@dataclass(frozen=True)
class RunningServer:
    """A server of one port."""

    runner: web.AppRunner
    server: asyncio.Server
    connections: Connections

    @property
    def port(self) -> int:
        """TCP port."""
        return int(self.server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Accept no more, let answers that are under way end for a moment, and end the rest."""
        self.server.close()
        asyncio.get_running_loop().call_later(SHUTDOWN_SECONDS, self.connections.abort)
        await self.runner.cleanup()
        self.connections.abort()


async def start(
    run: Place,
    listening: Listening,
    servers: list[RunningServer],
    make_app: MakeApp = browser_app,
    visitor_does: str = "reads the report",
) -> str:
    """Listen; each server that has to be stopped is added to `servers`. Returns the address.

    Raises:
        InputError: the address cannot be had, or an allowed host is no host name.
    """
    if listening.metrics_port is not None and listening.metrics_port == listening.port != 0:
        raise InputError(f"--metrics-port is {listening.port}, the port of the page itself: choose another one")
    metrics = BrowserMetrics()
    hosts, connections = allowed_hosts(listening.host, listening.allowed_hosts), Connections()
    app = make_app(run, Surroundings(metrics, hosts, connections, listening.metrics_port is None))
    server = await _listen(app, connections, listening.host, listening.port, servers)
    if listening.metrics_port is not None:
        await _listen(metrics_app(metrics), Connections(), listening.host, listening.metrics_port, servers)
    address = f"http://{f'[{listening.host}]' if ':' in listening.host else listening.host}:{server.port}/"
    log("serving", run=run.url, address=address)
    if not is_loopback(listening.host):
        named = ", ".join(sorted(hosts.names)) or "no name"
        log("reachable", note=f"whoever reaches this address {visitor_does}: it has no login of its own", answers_to=f"addresses and {named}")
    return address


async def _listen(app: web.Application, connections: Connections, host: str, port: int, servers: list[RunningServer]) -> RunningServer:
    runner = web.AppRunner(
        app,
        access_log=None,
        shutdown_timeout=SHUTDOWN_SECONDS,
        keepalive_timeout=REQUEST_SECONDS,
        max_line_size=MAX_LINE_BYTES,
        max_field_size=MAX_LINE_BYTES,
        max_headers=MAX_HEADERS,
    )
    await runner.setup()
    if runner.server is None:
        raise RuntimeError("a runner that was set up has a server")
    try:
        listener = await asyncio.get_running_loop().create_server(connections.bounded(runner.server), host, port)
    except (OSError, OverflowError, UnicodeError) as error:
        await runner.cleanup()
        reason = "no such address here" if isinstance(error, socket.gaierror | UnicodeError) else getattr(error, "strerror", None) or error
        raise InputError(f"cannot listen on {host[:80]}:{port}: {reason}; choose another --host or --port") from None
    servers.append(RunningServer(runner, listener, connections))
    return servers[-1]
