"""`monosem rate`: let people judge features without knowing what they judge."""

import argparse

from aiohttp import web

from sae.errors import InputError
from sae.log import log, start_logging
from sae.rating.deck import DECK_KEY, Deck, DeckConfig, make_deck, read_deck, sources_of
from sae.storage import Place
from services.browser.app import Surroundings
from services.browser.rating import rating_app
from services.browser.server import Listening, serve_app


def rate_verb(options: argparse.Namespace) -> None:
    """Draw the cards of the run at `options.url`, or take those drawn before, and serve the rating page until interrupted.

    Raises:
        InputError: nothing was interpreted, the text of its tokens is unknown, the cards were drawn otherwise, or the address cannot be had.
    """
    start_logging()
    run = Place(options.url)
    deck = draw_or_read(run, options.features, options.seed)
    log("cards", number=len(deck.cards), sources=",".join(deck.sources), seed=deck.config.seed)

    def make_app(run: Place, surroundings: Surroundings) -> web.Application:
        return rating_app(run, deck, surroundings)

    serve_app(run, Listening(options.host, options.port, allowed_hosts=options.allowed_host), make_app, "may rate under any name")


def draw_or_read(run: Place, features: int | None, seed: int | None) -> Deck:
    """The deck of a run, drawn now where there is none.

    Raises:
        InputError: nothing was interpreted, the text of its tokens is unknown, or the deck was drawn with other options.
    """
    asked = {key: value for key, value in (("features_per_source", features), ("seed", seed)) if value is not None}
    if not run.exists(DECK_KEY):
        from sae.report.vocabulary import run_vocabulary  # seconds of import that a drawn deck does not need

        sources_of(run)  # a run that was not interpreted is told so first
        return make_deck(run, run_vocabulary(run), DeckConfig.parse(asked))
    deck = read_deck(run)
    drawn = deck.config.model_dump()
    for key, value in asked.items():
        if drawn[key] != value:
            raise InputError(
                f"the cards of {run.url} were drawn with {key} {drawn[key]}, not {value}: leave the option out, or move {run.path('ratings')} away"
            )
    return deck
