"""The command line: `monosem VERB …`.

Exit codes: 0 done; 1 something broke; 2 the user's mistake, said in one line; 130, 143 or 129 ended by SIGINT, SIGTERM or SIGHUP (run the same
command again to continue).
"""

import argparse
import importlib
import signal
import traceback
from collections.abc import Callable

from jobs.commands import VERBS
from jobs.parsing import parse
from sae.errors import MonosemError
from sae.extras import installation_advice
from services.cluster.environment import prepare_ray_environment
from services.ending import End, Ending


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, run one verb, and turn errors and signals into one line and an exit code."""
    with Ending() as ending:
        options = parse(arguments)
        try:
            return _dispatch(options)
        except BaseException as error:
            end = ending.end or _end_of(error)  # once a signal has come, what clean-up raised does not matter
            if end is None:
                raise
            if options.traceback:
                traceback.print_exc()
            ending.say(end.message)
            return end.code


def _end_of(error: BaseException) -> End | None:
    """Find the end of the command after an error; None where the error itself says so."""
    match error:
        case MonosemError():
            return End(str(error), error.exit_code)
        case ImportError() if advice := installation_advice(error):
            return End(advice, 2)
        case KeyboardInterrupt():
            return End.by_signal(signal.SIGINT)
        case BrokenPipeError():
            return End(None, 1)
        case Exception():  # the last resort: a user sees one line, `--traceback` shows the rest
            said = " ".join(str(error).split())[:500]
            return End(f"internal error, {type(error).__name__}: {said} (--traceback shows where)", 1)
    return None


def _dispatch(options: argparse.Namespace) -> int:
    if options.verb != "submit":  # whoever submits uses the cluster's token, not one of their own
        prepare_ray_environment()
    module, _, name = VERBS[options.verb].action.partition(":")
    action: Callable[[argparse.Namespace], int | None] = getattr(importlib.import_module(module), name)
    return action(options) or 0
