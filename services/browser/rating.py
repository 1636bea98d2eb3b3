"""The rating page over HTTP: a rater gets cards without names, and sends ratings that are kept in the run.

Who may write: only pages that this server itself handed out. A POST must name this server as its origin and carry JSON, which a page of
another site can do neither. As everywhere in the browser, only requests are answered whose host is an address or a configured name.
What is sent is small, validated field by field, and becomes part of a path only as a rater's name in a narrow alphabet.
"""

import asyncio
import re

from aiohttp import web
from pydantic import ValidationError

from sae.config import describe_problem
from sae.errors import InputError
from sae.log import log_error
from sae.rating.deck import Deck
from sae.rating.records import RATER_NAME, Rating, Ratings, latest
from sae.report.script import script_digest
from sae.storage import Place, parse_json
from services.browser.app import Surroundings, add_health, guarded_app
from services.browser.connections import REQUEST_SECONDS
from services.browser.hosts import Hosts
from services.browser.rating_page import rating_page, rating_script

MAX_REQUEST_BYTES = 16_384

POLICY = (
    f"default-src 'none'; script-src 'sha256-{script_digest(rating_script())}'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def rating_app(run: Place, deck: Deck, surroundings: Surroundings) -> web.Application:
    """The application that lets people rate one deck.

    Args:
        run: the run directory; ratings are written below its `ratings/`.
        deck: the cards.
        surroundings: of the server.
    """
    desk = _Desk(Ratings(run, deck), surroundings.hosts)
    app = guarded_app(surroundings, POLICY, MAX_REQUEST_BYTES)
    app.router.add_get("/", desk.page)
    app.router.add_get("/cards/{card}", desk.card)
    app.router.add_get("/ratings/{rater}", desk.given)
    app.router.add_post("/ratings/{rater}", desk.take)
    add_health(app, desk.ready, surroundings)
    return app


class _Desk:
    """The handlers; ratings are written one at a time."""

    def __init__(self, ratings: Ratings, hosts: Hosts) -> None:
        self.ratings, self.deck, self.hosts = ratings, ratings.deck, hosts
        self._page = rating_page()
        self._writing = asyncio.Lock()

    async def page(self, request: web.Request) -> web.Response:
        return web.Response(text=self._page, content_type="text/html", headers={"Cache-Control": "no-cache"})

    async def ready(self, request: web.Request) -> web.Response:
        return web.Response(text="ready\n")

    async def card(self, request: web.Request) -> web.Response:
        """Return the part of a card that is shown; nothing of what it is."""
        number = request.match_info["card"]
        if not re.fullmatch("[0-9]{1,7}", number, re.ASCII) or int(number) >= len(self.deck.cards):
            raise web.HTTPNotFound(text=f"the deck has the cards 0 to {len(self.deck.cards) - 1}\n")
        return web.json_response(self.deck.shown(int(number)), headers={"Cache-Control": "no-store"})

    async def given(self, request: web.Request) -> web.Response:
        """The number of cards, and what this rater has said of which."""
        try:
            counted = latest(await asyncio.to_thread(self.ratings.of, _rater(request)))
        except InputError as error:
            log_error("ratings_unreadable", reason=str(error))
            raise web.HTTPInternalServerError(text="a rating of this run cannot be read; the server's log says which\n") from None
        ratings = {card: rating.model_dump(exclude={"rater", "deck", "written"}) for card, rating in counted.items()}
        return web.json_response({"cards": len(self.deck.cards), "ratings": ratings}, headers={"Cache-Control": "no-store"})

    async def take(self, request: web.Request) -> web.Response:
        """Keep one rating."""
        rater = _rater(request)
        _refuse_other_pages(request, self.hosts)
        try:
            body = await asyncio.wait_for(request.read(), REQUEST_SECONDS)
            if not isinstance(parse_json(body, "the rating"), dict):
                raise InputError("the rating is no object of keys and values")
            rating = Rating.model_validate_json(body)
        except TimeoutError:
            raise web.HTTPRequestTimeout(text="the rating did not arrive in time\n") from None
        except InputError as error:
            raise web.HTTPUnprocessableEntity(text=f"{str(error).partition('. ')[0]}\n") from None
        except ValidationError as error:
            raise web.HTTPUnprocessableEntity(text=f"not a rating: {'; '.join(map(describe_problem, error.errors()[:5]))[:500]}\n") from None
        try:
            async with self._writing:
                kept = await asyncio.to_thread(self.ratings.add, rater, rating)
        except InputError as error:
            log_error("rating_refused", rater=rater, reason=str(error))
            # What the deck refuses is told; what the storage refuses would name its path.
            told = "the run cannot be written; the server's log says why" if self.ratings.run.url in str(error) else str(error)
            raise web.HTTPConflict(text=f"not kept: {told}\n") from None
        return web.json_response({"card": kept.card, "points": kept.total}, status=201)


def _rater(request: web.Request) -> str:
    name = request.match_info["rater"]
    if not re.fullmatch(RATER_NAME, name, re.ASCII):
        raise web.HTTPNotFound(text="a rater's name is 1 to 40 of a-z, 0-9, - and _, beginning with a letter or digit\n")
    return name


def _refuse_other_pages(request: web.Request, hosts: Hosts) -> None:
    if not hosts.is_own_page(request.headers.get("Origin"), request.headers.get("Host", "")):
        raise web.HTTPForbidden(text="only the rating page of this server may send ratings\n")
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="a rating is JSON\n")
