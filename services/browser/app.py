"""The web application: a few read-only routes, security headers on every answer, and its metrics."""

import ipaddress
import logging
import time
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from sae.errors import InputError, MonosemError
from sae.storage import Place
from services.browser.pages import CONTENT_SECURITY_POLICY, Page, Pages, index_key
from services.metrics import build_metrics

logger = logging.getLogger("monosem")

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


def browser_app(run: Place, metrics: BrowserMetrics, local_only: bool, with_metrics: bool = True) -> web.Application:
    """The application that shows one run.

    Args:
        run: the run directory, holding `report.html`.
        metrics: where requests are counted.
        local_only: answer only requests that name this machine as their host. A page of another site could otherwise make its own
            name point here and read the report with the visitor's browser.
        with_metrics: answer `/metrics`, too; not where it has a port of its own.
    """
    pages = Pages(run)

    async def report(request: web.Request) -> web.Response:
        return answer(request, await pages.read("report.html"))

    async def summary(request: web.Request) -> web.Response:
        return answer(request, await pages.read("summary.json"))

    async def index(request: web.Request) -> web.Response:
        key = index_key(request.match_info["source"], request.match_info["file"])
        if key is None:
            raise web.HTTPNotFound(text="there is no such object in a feature index\n")
        return answer(request, await pages.read(key))

    async def ready(request: web.Request) -> web.Response:
        await pages.read("summary.json")
        return web.Response(text="ready\n")

    app = web.Application(middlewares=[around_every_request(metrics, local_only, CONTENT_SECURITY_POLICY)])
    app.router.add_get("/", report)
    app.router.add_get("/report.html", report)
    app.router.add_get("/summary.json", summary)
    app.router.add_get("/interpretation/{source}/{file}", index)
    add_health(app, ready, metrics if with_metrics else None)
    return app


def add_health(app: web.Application, ready: Handler, metrics: BrowserMetrics | None) -> None:
    """`/healthz`, `/readyz` and, with metrics, `/metrics`."""
    app.router.add_get("/healthz", _alive)
    app.router.add_get("/readyz", ready)
    if metrics is not None:
        app.router.add_get("/metrics", _metrics_handler(metrics))


def metrics_app(metrics: BrowserMetrics) -> web.Application:
    """`/metrics` alone, for a port that visitors do not reach."""
    app = web.Application()
    app.router.add_get("/metrics", _metrics_handler(metrics))
    return app


def answer(request: web.Request, page: Page) -> web.Response:
    """A page as a response: 304 where the visitor has it already, compressed where that is understood."""
    headers = {"ETag": page.tag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding", "Content-Type": page.kind}
    if request.headers.get("If-None-Match") == page.tag:
        return web.Response(status=304, headers=headers)
    if page.packed is not None and "gzip" in request.headers.get("Accept-Encoding", ""):
        return web.Response(body=page.packed, headers=headers | {"Content-Encoding": "gzip"})
    return web.Response(body=page.body, headers=headers)


async def _alive(request: web.Request) -> web.Response:
    return web.Response(text="ok\n")


def _metrics_handler(metrics: BrowserMetrics) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return handler


def around_every_request(metrics: BrowserMetrics, local_only: bool, policy: str) -> Middleware:
    """Guard, answer and count each request; `policy` is the content security policy of every answer."""
    headers = HEADERS | {"Content-Security-Policy": policy}

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        started = time.perf_counter()
        response = await _guarded(request, handler, local_only)
        response.headers.update(headers)
        resource = request.match_info.route.resource
        route = (ROUTES | RATING_ROUTES | HEALTH).get(resource.canonical if resource else "", "other")
        metrics.count(route, response.status, time.perf_counter() - started)
        return response

    return middleware


async def _guarded(request: web.Request, handler: Handler, local_only: bool) -> web.StreamResponse:
    if local_only and not is_local(request.host):
        return web.Response(status=421, text="this server answers to its own machine's name only: http://127.0.0.1 or http://localhost\n")
    try:
        return await handler(request)
    except web.HTTPException as error:
        return web.Response(status=error.status, text=error.text)
    except InputError:
        status = 503 if request.path == "/readyz" else 404
        return web.Response(status=status, text="not there (yet): `monosem report` writes the report of a run\n")
    except MonosemError as error:
        logger.error("event=browser_failed path=%s reason=%r", request.path, str(error))
        return web.Response(status=502, text="the run's storage did not answer; the server's log says why\n")
    except Exception:
        logger.exception("event=browser_failed path=%s", request.path)
        return web.Response(status=500, text="something broke; the server's log says what\n")


def is_local(host: str) -> bool:
    """Whether a Host header names this machine's loopback."""
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return name.lower() == "localhost"
