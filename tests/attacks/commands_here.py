"""The command line in this very process (`cluster.executor: local`), with the servers asked once instead of running until a signal."""

import contextlib
import io
from dataclasses import dataclass
from unittest import mock

import jobs.rate  # noqa: F401 - patched by its name
from jobs.cli import main
from sae.storage import Place
from services.browser.app import browser_app
from services.browser.server import Listening, MakeApp
from tests.services.running_browser import RunningBrowser


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: its exit code.
        printed: its standard output.
        said: its standard error.
    """

    code: int
    printed: str
    said: str

    @property
    def message(self) -> str:
        """Its last line; empty where it failed without one."""
        lines = [line for line in self.said.splitlines() if line.startswith("monosem: ")]
        return lines[-1] if lines else ""


def command(*arguments: str) -> Ended:
    """Run `monosem` with these arguments."""
    printed, said = io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(printed))
        stack.enter_context(contextlib.redirect_stderr(said))
        for module in ("services.browser.server", "jobs.rate"):
            stack.enter_context(mock.patch(f"{module}.serve_app", ask_here))
        try:
            code = main(list(arguments))
        except SystemExit as end:  # of the parser of arguments
            code = int(end.code or 0)
    return Ended(code, printed.getvalue(), said.getvalue())


INDEX = "/interpretation/topk/"
SERVED = ("/", "/summary.json", f"{INDEX}features.parquet", f"{INDEX}summary.json")
RATED = ("/", "/cards/0", "/ratings/anna")
REFUSED = "could not be had"


def ask_here(run: Place, listening: Listening, make_app: MakeApp, visitor_does: str) -> None:
    """Serve on a free port, ask for every object once, and print the status of each answer."""
    browser = RunningBrowser(run, Listening(port=0), make_app)
    try:
        for path in RATED if make_app is not browser_app else SERVED:
            status, _, _ = browser.ask(path)
            print(path, status, "" if status == 200 else REFUSED)
    finally:
        browser.stop()
