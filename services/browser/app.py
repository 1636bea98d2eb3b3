"""The web application: a few read-only routes, security headers on every answer, and its metrics."""

import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from sae.errors import InputError, MonosemError
from sae.log import log_error
from sae.run.layout import REPORT_KEY, SUMMARY_KEY
from sae.storage import Place
from services.browser.connections import SEND_BUFFER_BYTES, Connections, reset
from services.browser.hosts import Hosts
from services.browser.pages import CONTENT_SECURITY_POLICY, Pages, index_key
from services.monitoring.metrics import build_metrics

HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "Server": "monosem",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
ROUTES = {"/": "report", "/report.html": "report", "/summary.json": "summary", "/interpretation/{source}/{file}": "index"}
RATING_ROUTES = {"/cards/{card}": "card", "/ratings/{rater}": "ratings"}
HEALTH = {"/healthz": "health", "/readyz": "health", "/metrics": "metrics"}


class BrowserMetrics:
    """The browser's own counters, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._built = build_metrics(self.registry, prefix="monosem_browser_")

    def count(self, route: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        self._built["monosem_browser_requests_total"].labels(route=route, status=f"{status // 100}xx").inc()  # type: ignore[union-attr]
        self._built["monosem_browser_request_seconds"].labels(route=route).observe(seconds)  # type: ignore[union-attr]

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self.registry)


@dataclass(frozen=True)
class Surroundings:
    """Interface of the server around an application.

    Attributes:
        metrics: where requests are counted.
        hosts: names that are answered.
        connections: those that are open.
        with_metrics: answer `/metrics`, too; not where it has a port of its own.
    """

    metrics: BrowserMetrics
    hosts: Hosts
    connections: Connections
    with_metrics: bool = True


def browser_app(run: Place, surroundings: Surroundings) -> web.Application:
    """The application that shows one run.

    Args:
        run: the run directory, holding `report.html`.
        surroundings: of the server.
    """
    pages = Pages(run)

    async def report(request: web.Request) -> web.StreamResponse:
        return await answer(request, pages, REPORT_KEY)

    async def summary(request: web.Request) -> web.StreamResponse:
        return await answer(request, pages, SUMMARY_KEY)

    async def index(request: web.Request) -> web.StreamResponse:
        key = index_key(request.match_info["source"], request.match_info["file"])
        if key is None:
            raise web.HTTPNotFound(text="there is no such object in a feature index\n")
        return await answer(request, pages, key)

    async def ready(request: web.Request) -> web.Response:
        await pages.find(SUMMARY_KEY)
        return web.Response(text="ready\n")

    app = guarded_app(surroundings, CONTENT_SECURITY_POLICY)
    app.router.add_get("/", report)
    app.router.add_get("/report.html", report)
    app.router.add_get("/summary.json", summary)
    app.router.add_get("/interpretation/{source}/{file}", index)
    add_health(app, ready, surroundings)
    return app


def add_health(app: web.Application, ready: Handler, surroundings: Surroundings) -> None:
    """Add `/healthz`, `/readyz` and, where they have no port of their own, `/metrics`."""
    app.router.add_get("/healthz", _alive)
    app.router.add_get("/readyz", ready)
    if surroundings.with_metrics:
        app.router.add_get("/metrics", _metrics_handler(surroundings.metrics))


def metrics_app(metrics: BrowserMetrics) -> web.Application:
    """`/metrics` alone, for a port that visitors do not reach."""
    app = web.Application()
    app.router.add_get("/metrics", _metrics_handler(metrics))
    return app


async def answer(request: web.Request, pages: Pages, key: str) -> web.StreamResponse:
    """Send an object: 304 where the visitor has it already, compressed where that is understood, and no faster than it is read.

    Raises:
        InputError, StorageError: as `Pages.find`.
    """
    page = await pages.find(key)
    headers = {"ETag": page.tag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding", "Content-Type": page.kind}
    if request.headers.get("If-None-Match") == page.tag:
        return web.Response(status=304, headers=headers)
    body = page.body
    if page.packed is not None and "gzip" in request.headers.get("Accept-Encoding", ""):
        body, headers["Content-Encoding"] = page.packed, "gzip"
    response = web.StreamResponse(headers=headers)
    response.content_length = page.size if body is None else len(body)
    pieces = pages.pieces(page) if body is None else _cut(body)
    async with contextlib.aclosing(pieces):
        with contextlib.suppress(ConnectionError):  # the visitor left
            await response.prepare(request)
            if request.method != "HEAD":
                # The transport copies what it cannot send at once, so it is given little, and the next piece only when there is room.
                async for piece in pieces:
                    await response.write(piece)
    return response


async def _cut(body: bytes) -> AsyncGenerator[bytes]:
    for start in range(0, len(body), SEND_BUFFER_BYTES):
        yield body[start : start + SEND_BUFFER_BYTES]


async def _alive(request: web.Request) -> web.Response:
    return web.Response(text="ok\n")


def _metrics_handler(metrics: BrowserMetrics) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return handler


def guarded_app(surroundings: Surroundings, policy: str, largest_request: int = 0) -> web.Application:
    """An application without routes that guards, answers and counts each request.

    Args:
        surroundings: of the server.
        policy: content security policy of every answer.
        largest_request: bytes of a request's body, at most.
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        started = time.perf_counter()
        with surroundings.connections.at_work(request.transport):
            response = await _guarded(request, handler, surroundings.hosts)
        resource = request.match_info.route.resource
        route = (ROUTES | RATING_ROUTES | HEALTH).get(resource.canonical if resource else "", "other")
        surroundings.metrics.count(route, response.status, time.perf_counter() - started)
        return response

    async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(HEADERS | {"Content-Security-Policy": policy})

    app = web.Application(middlewares=[middleware], client_max_size=largest_request)
    app.on_response_prepare.append(add_headers)
    return app


async def _guarded(request: web.Request, handler: Handler, hosts: Hosts) -> web.StreamResponse:
    if not hosts.answers_to(request.headers.get("Host", "")):
        return web.Response(status=421, text="this server does not answer to this name: use its address, or a name of its --allowed-host\n")
    try:
        return await handler(request)
    except web.HTTPException as error:
        return web.Response(status=error.status, text=error.text)
    except InputError:
        status = 503 if request.path == "/readyz" else 404
        return web.Response(status=status, text="not there (yet): `monosem report` writes the report of a run\n")
    except MonosemError as error:
        log_error("browser_failed", path=request.path, reason=str(error))
        _end_half_sent(request)
        return web.Response(status=502, text="the run's storage did not answer; the server's log says why\n")
    except Exception as error:  # noqa: BLE001 - the last resort: the visitor sees one line, the log says the rest
        log_error("browser_failed", path=request.path, reason=f"{type(error).__name__}: {error}")
        _end_half_sent(request)
        return web.Response(status=500, text="something broke; the server's log says what\n")


def _end_half_sent(request: web.Request) -> None:
    """Break the connection where a part of the answer is already on its way: a shorter answer must not pass for a whole one."""
    if request.transport is not None and request.writer.output_size:
        reset(request.transport)
