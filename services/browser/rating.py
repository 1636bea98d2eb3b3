"""The rating page over HTTP: a rater gets cards without names, and sends ratings that are kept in the run.

Who may write: only pages that this server itself handed out. A POST must name this server as its origin and carry JSON, which a page of
another site can do neither; on loopback, as everywhere in the browser, only requests that name this machine as their host are answered.
What is sent is small, validated field by field, and becomes part of a path only as a rater's name in a narrow alphabet.
"""

import asyncio
import logging
import re

from aiohttp import web
from pydantic import ValidationError

from sae.config import describe_problem
from sae.errors import InputError
from sae.rating.deck import Deck
from sae.rating.records import RATER_NAME, Rating, Ratings, latest
from sae.report.script import script_digest
from sae.storage import Place
from services.browser.app import BrowserMetrics, add_health, around_every_request
from services.browser.rating_page import rating_page, rating_script

logger = logging.getLogger("monosem")

MAX_REQUEST_BYTES = 16_384

POLICY = (
    f"default-src 'none'; script-src 'sha256-{script_digest(rating_script())}'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def rating_app(run: Place, deck: Deck, metrics: BrowserMetrics, local_only: bool, with_metrics: bool = True) -> web.Application:
    """The application that lets people rate one deck.

    Args:
        run: the run directory; ratings are written below its `ratings/`.
        deck: the cards.
        metrics: where requests are counted.
        local_only: answer only requests that name this machine as their host.
        with_metrics: answer `/metrics`, too.
    """
    desk = _Desk(Ratings(run, deck))
    app = web.Application(middlewares=[around_every_request(metrics, local_only, POLICY)], client_max_size=MAX_REQUEST_BYTES)
    app.router.add_get("/", desk.page)
    app.router.add_get("/cards/{card}", desk.card)
    app.router.add_get("/ratings/{rater}", desk.given)
    app.router.add_post("/ratings/{rater}", desk.take)
    add_health(app, desk.ready, metrics if with_metrics else None)
    return app


class _Desk:
    """The handlers; ratings are written one at a time."""

    def __init__(self, ratings: Ratings) -> None:
        self.ratings, self.deck = ratings, ratings.deck
        self._page = rating_page()
        self._writing = asyncio.Lock()

    async def page(self, request: web.Request) -> web.Response:
        return web.Response(text=self._page, content_type="text/html", headers={"Cache-Control": "no-cache"})

    async def ready(self, request: web.Request) -> web.Response:
        return web.Response(text="ready\n")

    async def card(self, request: web.Request) -> web.Response:
        """What is shown of a card; nothing of what it is."""
        number = request.match_info["card"]
        if not re.fullmatch("[0-9]{1,7}", number, re.ASCII) or int(number) >= len(self.deck.cards):
            raise web.HTTPNotFound(text=f"the deck has the cards 0 to {len(self.deck.cards) - 1}\n")
        return web.json_response(self.deck.shown(int(number)), headers={"Cache-Control": "no-store"})

    async def given(self, request: web.Request) -> web.Response:
        """The number of cards, and what this rater has said of which."""
        try:
            counted = latest(await asyncio.to_thread(self.ratings.of, _rater(request)))
        except InputError as error:
            logger.error("event=ratings_unreadable reason=%r", str(error))
            raise web.HTTPInternalServerError(text="a rating of this run cannot be read; the server's log says which\n") from None
        ratings = {card: rating.model_dump(exclude={"rater", "deck", "written"}) for card, rating in counted.items()}
        return web.json_response({"cards": len(self.deck.cards), "ratings": ratings}, headers={"Cache-Control": "no-store"})

    async def take(self, request: web.Request) -> web.Response:
        """Keep one rating."""
        rater = _rater(request)
        _refuse_other_pages(request)
        body = await request.read()
        try:
            rating = Rating.model_validate_json(body)
        except ValidationError as error:
            raise web.HTTPUnprocessableEntity(text=f"not a rating: {'; '.join(map(describe_problem, error.errors()[:5]))[:500]}\n") from None
        try:
            async with self._writing:
                kept = await asyncio.to_thread(self.ratings.add, rater, rating)
        except InputError as error:
            logger.error("event=rating_refused rater=%s reason=%r", rater, str(error))
            # What the deck refuses is told; what the storage refuses would name its path.
            told = "the run cannot be written; the server's log says why" if self.ratings.run.url in str(error) else str(error)
            raise web.HTTPConflict(text=f"not kept: {told}\n") from None
        return web.json_response({"card": kept.card, "points": kept.total}, status=201)


def _rater(request: web.Request) -> str:
    name = request.match_info["rater"]
    if not re.fullmatch(RATER_NAME, name, re.ASCII):
        raise web.HTTPNotFound(text="a rater's name is 1 to 40 of a-z, 0-9, - and _, beginning with a letter or digit\n")
    return name


def _refuse_other_pages(request: web.Request) -> None:
    # Either scheme: a proxy may speak TLS to the rater and not to this server.
    if request.headers.get("Origin", "").lower() not in (f"http://{request.host}".lower(), f"https://{request.host}".lower()):
        raise web.HTTPForbidden(text="only the rating page of this server may send ratings\n")
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="a rating is JSON\n")
