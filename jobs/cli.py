"""The command line: `monosem VERB -c FILE key=value…`.

Exit codes: 0 done; 1 something broke; 2 the user's mistake, said in one line; 130 interrupted (run the same command again to continue).
"""

import argparse
import sys
import traceback
from collections.abc import Callable

from sae.errors import MonosemError
from services.ray_environment import prepare_ray_environment

DESCRIPTION = "Dictionary learning on transformer activations: text → activations → dictionary → scores → a report to look at."
VERBS = {
    "run": "the whole way: harvest, train, evaluate, interpret, report",
    "pretrain": "train a small one-layer subject model on the text",
    "harvest": "run the subject model over the text and keep its activations",
    "train": "train the dictionaries in one pass over the activations",
    "evaluate": "measure the dictionaries on held-out text",
    "interpret": "explain every feature and score the explanations",
    "report": "gather what is there into one HTML file",
    "plan": "say beforehand what a run will take",
    "show": "say what lies at a path or URL",
}
EXAMPLES = """examples:
  monosem run -c deploy/configs/quickstart.yaml
  monosem run -c deploy/configs/quickstart.yaml output=s3://bucket/run subject.model=EleutherAI/pythia-70m
  monosem train -c run.yaml training.dictionaries.topk.sae.k=32
  monosem plan -c run.yaml
  monosem show runs/quickstart/store --verify

`monosem VERB --help` lists every key with its default and unit."""


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, run one verb, and turn errors into one line and an exit code."""
    options = _parser().parse_args(arguments)
    try:
        _dispatch(options)
    except MonosemError as error:
        return _fail(str(error), error.exit_code, options)
    except KeyboardInterrupt:
        return _fail("interrupted; run the same command again to continue", 130, options)
    except BrokenPipeError:
        return 1
    except Exception as error:  # noqa: BLE001 - the last resort: a user sees one line, `--traceback` shows the rest
        return _fail(f"internal error, {type(error).__name__}: {' '.join(str(error).split())[:500]} (--traceback shows where)", 1, options)
    return 0


def _fail(message: str, code: int, options: argparse.Namespace) -> int:
    if options.traceback:
        traceback.print_exc()
    print(f"monosem: {' '.join(message.split())}", file=sys.stderr)
    return code


def _dispatch(options: argparse.Namespace) -> None:
    # Imported here: `--help` and a mistyped verb should not wait seconds for torch and ray.
    prepare_ray_environment()
    action: Callable[[argparse.Namespace], None]
    if options.verb == "show":
        from jobs.show import show_verb as action
    elif options.verb == "plan":
        from jobs.plan import plan_verb as action
    else:
        from jobs.verbs import stage_verb as action
    action(options)


def _parser() -> argparse.ArgumentParser:
    shown = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="monosem", description=DESCRIPTION, epilog=EXAMPLES, formatter_class=shown)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb, summary in VERBS.items():
        child = verbs.add_parser(verb, help=summary, description=f"{verb}: {summary}.", formatter_class=shown, add_help=verb == "show")
        child.add_argument("--traceback", action="store_true", help="show where an error came from")
        if verb == "show":
            child.add_argument("url", help="a run, corpus, store or dictionary: a path or URL")
            child.add_argument("--verify", action="store_true", help="read every object again and compare it with its receipt")
            continue
        child.add_argument("-c", "--config", metavar="FILE", help="YAML file of a run (ready ones lie in deploy/configs)")
        child.add_argument(
            "overrides", nargs="*", metavar="key=value", help="override a key of the file; the value is YAML (a bare FILE.yaml is taken as -c)"
        )
        child.add_argument("-h", "--help", action=_HelpWithKeys, nargs=0, help="show this message and every key with its default and unit")
        if verb == "run":
            child.add_argument("--from-scratch", action="store_true", help="train the subject model first, into OUTPUT/subject")
    return parser


class _HelpWithKeys(argparse.Action):
    """Prints the help and all keys of the configuration; reading them takes a few seconds of imports."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from jobs.loading import describe_config

        parser.print_help()
        print("\nkeys of the configuration (section.key = default):", *describe_config(), sep="\n")
        parser.exit(0)
