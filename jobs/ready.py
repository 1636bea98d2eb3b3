"""Ready configurations: files of this package that are called by name, as in `monosem run quickstart`."""

import difflib
import os
from pathlib import Path

from sae.errors import ConfigError

DIRECTORY = Path(__file__).parent / "configs"
SUFFIXES = (".yaml", ".yml")


def ready_names() -> list[str]:
    """The names of all ready configurations, sorted."""
    return sorted(path.stem for path in DIRECTORY.glob("*.yaml"))


def names_file(word: str) -> bool:
    """Say whether a word of the command line names a configuration: a YAML file or a ready configuration."""
    return "=" not in word and (word.endswith(SUFFIXES) or word in ready_names())


def take_file(path: str | None, words: list[str]) -> tuple[str | None, list[str]]:
    """Separate the configuration file from the overrides.

    Args:
        path: the file that `-c` names, or None.
        words: overrides; without `-c` one of them may name the file.

    Returns:
        The path of the file or None, and the overrides. A file in the working directory goes before a ready configuration of its name.

    Raises:
        ConfigError: a word is neither an override nor a ready configuration, and resembles the name of one.
    """
    named = [word for word in words if names_file(word)]
    if path is None and named:
        path = named[0]
        words = [word for word in words if word != path]
    for word in words:
        if "=" not in word and (close := difflib.get_close_matches(word[:60], ready_names(), n=1)):
            raise ConfigError(f"{word[:60]!r} is not key=value and not a ready configuration: did you mean {close[0]}?")
    if path in ready_names() and not os.path.exists(path):
        return str(DIRECTORY / f"{path}.yaml"), words
    return path, words
