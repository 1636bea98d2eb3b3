"""Serving the browser until it is told to stop."""

import asyncio
import ipaddress
import signal
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from sae.errors import InputError
from sae.storage import Place
from services.browser.app import BrowserMetrics, browser_app, metrics_app
from services.log import log

SHUTDOWN_SECONDS = 5.0
MakeApp = Callable[[Place, BrowserMetrics, bool, bool], web.Application]


@dataclass(frozen=True)
class Listening:
    """Where the browser listens.

    Attributes:
        host: an address of this machine; loopback answers only requests that name this machine.
        port: TCP port; 0 takes a free one.
        metrics_port: a port of its own for `/metrics`; None answers it beside the report.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    metrics_port: int | None = None


def serve(run: Place, listening: Listening, wait: bool = False) -> None:
    """Show a run until SIGINT or SIGTERM.

    Args:
        run: the run directory.
        listening: where to listen.
        wait: start although there is no report yet, and answer 404 until there is one.

    Raises:
        InputError: the run holds no report yet, or the address cannot be had.
    """
    if not wait and not run.exists("report.html"):
        raise InputError(f"{run.url} holds no report.html: check the path, or run `monosem report` with output={run.url}")
    serve_app(run, listening, browser_app, "reads the report")


def serve_app(run: Place, listening: Listening, make_app: MakeApp, visitor_does: str) -> None:
    """Serve an application of a run until SIGINT or SIGTERM.

    Args:
        run: the run directory.
        listening: where to listen.
        make_app: makes it, given the run, its metrics, whether only this machine may ask, and whether it answers `/metrics`.
        visitor_does: what whoever reaches it can do, for the warning where that is not this machine alone.

    Raises:
        InputError: the address cannot be had.
    """
    asyncio.run(_serve(run, listening, make_app, visitor_does))


async def _serve(run: Place, listening: Listening, make_app: MakeApp, visitor_does: str) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runners: list[web.AppRunner] = []
    try:
        await start(run, listening, runners, make_app, visitor_does)
        await stop.wait()
    finally:
        for runner in runners:
            await runner.cleanup()


async def start(
    run: Place,
    listening: Listening,
    runners: list[web.AppRunner],
    make_app: MakeApp = browser_app,
    visitor_does: str = "reads the report",
) -> str:
    """Listen; what has to be cleaned up is added to `runners`. Returns the address.

    Raises:
        InputError: the address cannot be had.
    """
    metrics = BrowserMetrics()
    local_only = _is_loopback(listening.host)
    app = make_app(run, metrics, local_only, listening.metrics_port is None)
    port = await _listen(app, listening.host, listening.port, runners)
    if listening.metrics_port is not None:
        await _listen(metrics_app(metrics), listening.host, listening.metrics_port, runners)
    address = f"http://{f'[{listening.host}]' if ':' in listening.host else listening.host}:{port}/"
    log("serving", run=run.url, address=address)
    if not local_only:
        log("reachable", note=f"whoever reaches this address {visitor_does}: it has no login of its own")
    return address


async def _listen(app: web.Application, host: str, port: int, runners: list[web.AppRunner]) -> int:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
    runners.append(runner)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        raise InputError(f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --host or --port") from None
    return int(runner.addresses[0][1])


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
