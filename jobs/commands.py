"""The commands of `monosem`: what each does, where its code is, and the arguments of its own."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

from jobs.exchange import export_arguments, import_arguments

ALLOWED_HOST = "a name that visitors may use for this server, such as that of a proxy; repeat it for more. Addresses and localhost need none"


@dataclass(frozen=True)
class Verb:
    """One verb of the command line.

    Attributes:
        summary: one line of help.
        action: `module:function`, imported only when the verb is called: `--help` and a mistyped verb should not wait seconds for torch
            and ray. It takes the parsed options and returns an exit code or None.
        arguments: adds the verb's own arguments.
        configured: takes `-c FILE key=value…`, and shows the keys that one changes most often in its help.
    """

    summary: str
    action: str
    arguments: Callable[[argparse.ArgumentParser], None] = lambda parser: None
    configured: bool = True


def port_number(text: str) -> int:
    """Read a TCP port.

    Raises:
        ArgumentTypeError: it is none.
    """
    if not text.isascii() or not text.isdigit() or len(text) > 5 or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a TCP port: give a number from 0 to 65535")
    return int(text)


def whole_number(text: str) -> int:
    """Read a whole number from 0 on.

    Raises:
        ArgumentTypeError: it is none.
    """
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number from 0 on")
    return int(text)


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--from-scratch", action="store_true", help="train the subject model first, into OUTPUT/subject")
    parser.add_argument("--overlap", action="store_true", help="train while the harvest still runs, where the cluster has room for both")


def _interpret_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="print the number of requests, tokens and the estimated cost; send nothing")
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
    parser.add_argument("--port", type=port_number, default=8080, help="TCP port (default %(default)s); 0 takes a free one")
    parser.add_argument("--allowed-host", action="append", default=[], metavar="NAME", help=ALLOWED_HOST)
    parser.add_argument("--metrics-port", type=port_number, help="answer /metrics on this port instead, which visitors need not reach")
    parser.add_argument("--wait", action="store_true", help="start although there is no report yet")


def _rate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", help="the run directory, interpreted: a path or URL; ratings are written below its `ratings`")
    parser.add_argument(
        "--features", type=whole_number, metavar="N", help="features of each source on the cards (default 20); fixed once the cards are drawn"
    )
    parser.add_argument("--seed", type=whole_number, metavar="N", help="of the drawing (default 0); fixed once the cards are drawn")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default %(default)s); on any but loopback others can rate, under any name"
    )
    parser.add_argument("--port", type=port_number, default=8081, help="TCP port (default %(default)s); 0 takes a free one")
    parser.add_argument("--allowed-host", action="append", default=[], metavar="NAME", help=ALLOWED_HOST)


def _keys_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("section", nargs="?", metavar="SECTION", help="only the keys of this section, such as training or harvest.pool")
    parser.add_argument("--schema", action="store_true", help="print all keys as a JSON schema, for editors and programs")


def _config_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--schema", action="store_true", help="print the JSON schema of the configuration, for editors and programs")


def _init_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="the YAML file to write, such as run.yaml; an existing file is refused")
    parser.add_argument("--model", default="embedded", help="Hugging Face directory or hub name of the model (default: %(default)s)")
    parser.add_argument(
        "--text", action="append", default=[], metavar="FILES", help="file, glob or hf:NAME; repeat it for more (default: text of the packages)"
    )


def _submit_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job_verb", metavar="VERB", choices=STAGES, help=f"what to run there: {', '.join(STAGES)}")
    parser.add_argument("--address", metavar="URL", help="the head's job server, http://HOST:8265; else RAY_API_SERVER_ADDRESS or RAY_ADDRESS")
    parser.add_argument("--follow", action="store_true", help="show the job's log until it ends, and end with its exit code")
    parser.add_argument("--python", default="python", metavar="PATH", help="the interpreter on the cluster that has this package")


_STAGE = "jobs.verbs:stage_verb"
VERBS = {
    "run": Verb("run all stages: harvest, train, evaluate, interpret, report", _STAGE, _run_arguments),
    "pretrain": Verb("train a small one-layer subject model on the text", _STAGE),
    "harvest": Verb("run the subject model over the text and keep its activations", _STAGE),
    "train": Verb("train the dictionaries in one pass over the activations", _STAGE),
    "evaluate": Verb("measure the dictionaries on held-out text", _STAGE),
    "concepts": Verb("find the features that best predict each label of a labelled text", _STAGE),
    "interpret": Verb("explain every feature and score the explanations", _STAGE, _interpret_arguments),
    "report": Verb("write the results into one HTML file", _STAGE),
    "init": Verb("write a commented configuration file to begin with", "jobs.init:init_verb", _init_arguments, configured=False),
    "config": Verb("print the resolved configuration, or its JSON schema", "jobs.resolved:config_verb", _config_arguments),
    "plan": Verb("estimate time, memory, storage and cost of a run", "jobs.planning:plan_verb", _plan_arguments),
    "keys": Verb("list the keys of the configuration: defaults, bounds and meaning", "jobs.keys:keys_verb", _keys_arguments, configured=False),
    "show": Verb("describe a run, store, corpus or dictionary", "jobs.show:show_verb", _show_arguments, configured=False),
    "clean": Verb("list unused files in a store; delete them with --delete", "jobs.clean:clean_verb", _clean_arguments, configured=False),
    "serve": Verb("show the report of a run over HTTP", "jobs.serve:serve_verb", _serve_arguments, configured=False),
    "rate": Verb("let people judge features without knowing what they judge", "jobs.rate:rate_verb", _rate_arguments, configured=False),
    "export": Verb("write a dictionary in another library's layout", "jobs.exchange:export_verb", export_arguments, configured=False),
    "import": Verb("read a dictionary in another library's layout", "jobs.exchange:import_verb", import_arguments, configured=False),
    "submit": Verb("run a verb as a job on a running Ray cluster", "jobs.submit:submit_verb", _submit_arguments),
}
STAGES = tuple(name for name, verb in VERBS.items() if verb.action == _STAGE)
