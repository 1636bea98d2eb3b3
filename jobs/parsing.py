"""Parsing of the command line: one line for each mistake, with the word that may be meant."""

import argparse
import difflib
import importlib.metadata
import shutil
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

from jobs.commands import VERBS
from jobs.ready import names_file
from jobs.usage import SECTIONS, command_help, main_help

PROGRAM = "monosem"
QUOTED = 60


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line; without arguments the help is shown.

    Raises:
        SystemExit: 0 after help or the version, 2 after a mistake, which is said in one line.
    """
    words = sys.argv[1:] if arguments is None else arguments
    parser = build_parser()
    if not words:
        parser.print_help()
        parser.exit(0)
    options, rest = parser.parse_known_args(words)
    # argparse takes positional arguments in one piece only; overrides may stand anywhere.
    unknown = [word for word in rest if word.startswith("-") or not ("=" in word or names_file(word))]
    if rest and (unknown or not VERBS[options.verb].configured):
        _refuse(parser, options.verb, (unknown or rest)[0], words)
    if rest:
        options.overrides = [*options.overrides, *rest]
    return options


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = _Parser(prog=PROGRAM, add_help=False, allow_abbrev=False)
    parser.format_help = lambda: main_help(_width())  # type: ignore[method-assign]
    parser.add_argument("-h", "--help", action="help", help="show this message")
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version")
    verbs = parser.add_subparsers(dest="verb", metavar="COMMAND", required=True, parser_class=_Parser)
    for name, verb in VERBS.items():
        child = verbs.add_parser(name, description=f"{name}: {verb.summary}.", allow_abbrev=False)
        child.add_argument("--traceback", action="store_true", help="show where an error came from")
        verb.arguments(child)
        if verb.configured:
            child.usage = f"{PROGRAM} {name}{' VERB' if name == 'submit' else ''} [-c FILE] [key=value ...] [options]"
            child.add_argument("-c", "--config", metavar="FILE", help="YAML file of a run: path, URL or ready one (`quickstart`)")
            child.add_argument(
                "overrides",
                nargs="*",
                metavar="key=value",
                help="set a key of the configuration (a bare FILE.yaml or ready name is taken as -c)",
            )
            child.add_argument("--help-all", action=_HelpAll, nargs=0, help="show every key that it reads")
            child.epilog = name  # the keys are added when the help is shown
    return parser


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and what may be meant."""

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with 2."""
        print(f"{self.prog}: {message} (`{self.prog} --help` shows more)", file=sys.stderr)
        raise SystemExit(2)

    def format_help(self) -> str:
        """The help of one command, wrapped to the terminal."""
        keys, self.epilog = self.epilog, None
        text = super().format_help()
        self.epilog = keys
        return text + (command_help(keys, _width()) if keys else "")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            what = "command" if action.dest in ("verb", "job_verb") else "choice"
            raise _Unknown(f"unknown {what} {str(value)[:QUOTED]!r}{near(str(value), action.choices)}")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, and refuse an unknown choice without the name of its argument."""
        try:
            return super().parse_known_args(args, namespace)
        except _Unknown as error:
            self.error(str(error))


class _Unknown(Exception):  # noqa: N818 - it never leaves this module
    """A value that is none of an argument's choices."""


class _HelpAll(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from jobs.keys import sections_help  # imports torch, which the short help does without

        name = parser.epilog or ""
        print(parser.format_help(), f"all keys that {name} reads:", sections_help(SECTIONS[name], _width()), sep="\n")
        parser.exit(0)


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        try:
            print(f"{PROGRAM} {importlib.metadata.version(PROGRAM)}")
        except importlib.metadata.PackageNotFoundError:
            print(f"{PROGRAM}, from a source directory that is not installed")
        parser.exit(0)


def near(found: str, choices: Iterable[str]) -> str:
    """The end of a message: the choice that is most like what was typed, or all of them."""
    known = list(choices)
    close = difflib.get_close_matches(found[:QUOTED], known, n=1)
    return f": did you mean {close[0]}?" if close else f". Known: {', '.join(known)}"


def _refuse(parser: argparse.ArgumentParser, verb: str, word: str, words: list[str]) -> NoReturn:
    child: argparse.ArgumentParser = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction)).choices[verb]
    shown = word[:QUOTED]
    if not word.startswith("-"):
        takes = "settings are written key=value" if VERBS[verb].configured else f"{verb} takes no settings"
        child.error(f"unexpected argument {shown!r}: {takes}")
    known = [option for action in child._actions for option in action.option_strings]
    close = difflib.get_close_matches(shown, known, n=1, cutoff=0.75)
    if close or not VERBS[verb].configured:
        child.error(f"unknown option {shown!r}{near(shown, known)}")
    name, equals, value = word.lstrip("-").partition("=")
    following = words[words.index(word) + 1 : words.index(word) + 2] if not equals else []
    value = value or next((each for each in following if not each.startswith("-") and "=" not in each), "VALUE")
    child.error(f"unknown option {shown!r}. Settings are keys: write {name[:QUOTED]}={value[:QUOTED]}; `{PROGRAM} keys` lists all keys")


def _width() -> int:
    return max(40, min(shutil.get_terminal_size((100, 24)).columns, 120))
