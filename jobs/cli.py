"""The command line: `monosem VERB …`.

Exit codes: 0 done; 1 something broke; 2 the user's mistake, said in one line; 130, 143 or 129 ended by SIGINT, SIGTERM or SIGHUP (run the same
command again to continue).
"""

import argparse
import importlib
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from jobs.exchange import export_arguments, import_arguments
from sae.errors import MonosemError
from services.ending import End, Ending
from services.ray_environment import prepare_ray_environment

DESCRIPTION = "Dictionary learning on transformer activations: text → activations → dictionary → scores → a report to look at."
EXAMPLES = """examples:
  monosem run -c deploy/configs/quickstart.yaml
  monosem run -c deploy/configs/quickstart.yaml output=s3://bucket/run subject.model=EleutherAI/pythia-70m
  monosem train -c run.yaml training.dictionaries.topk.sae.k=32
  monosem plan -c run.yaml
  monosem show runs/quickstart/store --verify
  monosem serve runs/quickstart
  monosem submit run -c run.yaml --address http://head:8265 --follow

`monosem VERB --help` lists every key with its default and unit."""


ALLOWED_HOST = "a name that visitors may use for this server, such as that of a proxy; repeat it for more. Addresses and localhost need none"


@dataclass(frozen=True)
class Verb:
    """One verb of the command line.

    Attributes:
        summary: one line of help.
        action: `module:function`, imported only when the verb is called: `--help` and a mistyped verb should not wait seconds for torch
            and ray. It takes the parsed options and returns an exit code or None.
        arguments: adds the verb's own arguments.
        configured: takes `-c FILE key=value…`, and lists the keys in its help.
    """

    summary: str
    action: str
    arguments: Callable[[argparse.ArgumentParser], None] = lambda parser: None
    configured: bool = True


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--from-scratch", action="store_true", help="train the subject model first, into OUTPUT/subject")
    parser.add_argument("--overlap", action="store_true", help="train while the harvest still runs, where the cluster has room for both")


def _interpret_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="say what a language model would be asked and what it would cost, and send nothing")
    parser.add_argument(
        "--max-cost", type=float, metavar="DOLLARS", help="what the language model may cost this output in all, earlier runs included"
    )


def _plan_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rates", metavar="FILE", help="lines of `make bench` from a machine of the kind that is planned for; else this one is measured"
    )


def _show_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", help="a run, corpus, store or dictionary: a path or URL")
    parser.add_argument("--verify", action="store_true", help="read every object again and compare it with its receipt")


def _clean_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", help="a store, or a run with one: a path or URL")
    parser.add_argument("--delete", action="store_true", help="delete what is found (else it is only listed); refused while a harvest runs")


def _serve_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", help="the run directory: a path or URL")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default %(default)s); others can read the report on any but loopback"
    )
    parser.add_argument("--port", type=int, default=8080, help="TCP port (default %(default)s); 0 takes a free one")
    parser.add_argument("--allowed-host", action="append", default=[], metavar="NAME", help=ALLOWED_HOST)
    parser.add_argument("--metrics-port", type=int, help="answer /metrics on this port instead, which visitors need not reach")
    parser.add_argument("--wait", action="store_true", help="start although there is no report yet")


def _rate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", help="the run directory, interpreted: a path or URL; ratings are written below its `ratings`")
    parser.add_argument("--features", type=int, metavar="N", help="features of each source on the cards (default 20); fixed once the cards are drawn")
    parser.add_argument("--seed", type=int, metavar="N", help="of the drawing (default 0); fixed once the cards are drawn")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default %(default)s); on any but loopback others can rate, under any name"
    )
    parser.add_argument("--port", type=int, default=8081, help="TCP port (default %(default)s); 0 takes a free one")
    parser.add_argument("--allowed-host", action="append", default=[], metavar="NAME", help=ALLOWED_HOST)


def _submit_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job_verb", metavar="VERB", choices=STAGES, help=f"what to run there: {', '.join(STAGES)}")
    parser.add_argument("--address", metavar="URL", help="the head's job server, http://HOST:8265; else RAY_API_SERVER_ADDRESS or RAY_ADDRESS")
    parser.add_argument("--follow", action="store_true", help="show the job's log until it ends, and end with its exit code")
    parser.add_argument("--python", default="python", metavar="PATH", help="the interpreter on the cluster that has this package")


_STAGE = "jobs.verbs:stage_verb"
VERBS = {
    "run": Verb("the whole way: harvest, train, evaluate, interpret, report", _STAGE, _run_arguments),
    "pretrain": Verb("train a small one-layer subject model on the text", _STAGE),
    "harvest": Verb("run the subject model over the text and keep its activations", _STAGE),
    "train": Verb("train the dictionaries in one pass over the activations", _STAGE),
    "evaluate": Verb("measure the dictionaries on held-out text", _STAGE),
    "concepts": Verb("find the features that stand for the labels of labelled text", _STAGE),
    "interpret": Verb("explain every feature and score the explanations", _STAGE, _interpret_arguments),
    "report": Verb("gather what is there into one HTML file", _STAGE),
    "plan": Verb("say beforehand what a run will take", "jobs.plan:plan_verb", _plan_arguments),
    "show": Verb("say what lies at a path or URL", "jobs.show:show_verb", _show_arguments, configured=False),
    "clean": Verb("find what a store holds beside itself, and delete it", "jobs.clean:clean_verb", _clean_arguments, configured=False),
    "serve": Verb("show the report of a run over HTTP", "jobs.serve:serve_verb", _serve_arguments, configured=False),
    "rate": Verb("let people judge features without knowing what they judge", "jobs.rate:rate_verb", _rate_arguments, configured=False),
    "export": Verb("write a dictionary in another library's layout", "jobs.exchange:export_verb", export_arguments, configured=False),
    "import": Verb("read a dictionary in another library's layout", "jobs.exchange:import_verb", import_arguments, configured=False),
    "submit": Verb("run a verb as a job on a running Ray cluster", "jobs.submit:submit_verb", _submit_arguments),
}
STAGES = tuple(name for name, verb in VERBS.items() if verb.action == _STAGE)


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, run one verb, and turn errors and signals into one line and an exit code."""
    with Ending() as ending:
        options = _parse(arguments)
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
    """How the command ends after an error; None where the error itself says so."""
    match error:
        case MonosemError():
            return End(str(error), error.exit_code)
        case KeyboardInterrupt():
            return End.by_signal(signal.SIGINT)
        case BrokenPipeError():
            return End(None, 1)
        case Exception():  # the last resort: a user sees one line, `--traceback` shows the rest
            said = " ".join(str(error).split())[:500]
            return End(f"internal error, {type(error).__name__}: {said} (--traceback shows where)", 1)
    return None


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    # argparse takes positional arguments in one piece only; overrides may stand anywhere.
    unknown = [word for word in rest if word.startswith("-") or "=" not in word]
    if rest and (unknown or not VERBS[options.verb].configured):
        parser.error(f"unrecognized arguments: {' '.join(unknown or rest)}")
    if rest:
        options.overrides = [*options.overrides, *rest]
    return options


def _dispatch(options: argparse.Namespace) -> int:
    if options.verb != "submit":  # whoever submits uses the cluster's token, not one of their own
        prepare_ray_environment()
    module, _, name = VERBS[options.verb].action.partition(":")
    action: Callable[[argparse.Namespace], int | None] = getattr(importlib.import_module(module), name)
    return action(options) or 0


def _parser() -> argparse.ArgumentParser:
    shown = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="monosem", description=DESCRIPTION, epilog=EXAMPLES, formatter_class=shown)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, verb in VERBS.items():
        child = verbs.add_parser(name, help=verb.summary, description=f"{name}: {verb.summary}.", formatter_class=shown, add_help=not verb.configured)
        child.add_argument("--traceback", action="store_true", help="show where an error came from")
        verb.arguments(child)
        if verb.configured:
            child.add_argument("-c", "--config", metavar="FILE", help="YAML file of a run, a path or URL (ready ones lie in deploy/configs)")
            child.add_argument(
                "overrides", nargs="*", metavar="key=value", help="override a key of the file; the value is YAML (a bare FILE.yaml is taken as -c)"
            )
            child.add_argument("-h", "--help", action=_HelpWithKeys, nargs=0, help="show this message and every key with its default and unit")
    return parser


class _HelpWithKeys(argparse.Action):
    """Prints the help and all keys of the configuration; reading them takes a few seconds of imports."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from jobs.loading import describe_config

        parser.print_help()
        print("\nkeys of the configuration (section.key = default):", *describe_config(), sep="\n")
        parser.exit(0)
