"""The command `monosem plan`: says at once that it works, since its imports and its measurements take their time."""

import argparse
import sys


def plan_verb(options: argparse.Namespace) -> None:
    """Print tokens, bytes, objects, time, money and memory of a run."""
    tell("reading the configuration and loading the model")
    from jobs.plan import print_plan  # torch takes seconds to import

    print_plan(options.config, options.overrides, options.rates, tell)


def tell(what: str) -> None:
    """Print on stderr what is being done; the plan alone goes to stdout."""
    print(f"plan: {what} …", file=sys.stderr, flush=True)
