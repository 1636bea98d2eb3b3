"""`monosem serve`: the report of a run over HTTP."""

import argparse

from sae.log import start_logging
from sae.storage import Place
from services.browser.server import Listening, serve


def serve_verb(options: argparse.Namespace) -> None:
    """Show the run at `options.url` until interrupted.

    Raises:
        InputError: there is no report, or the address cannot be had.
    """
    start_logging()
    serve(Place(options.url), Listening(options.host, options.port, options.metrics_port, options.allowed_host), options.wait)
