"""Overrides of a configuration: `section.key=value` as typed on the command line."""

import typing
from collections.abc import Sequence
from typing import Any, Literal

from jobs.config import RunConfig
from jobs.yaml_text import has_comment, parse_yaml
from sae.config import Key, describe_unknown, find_key, model_at, near_names, shown
from sae.errors import ConfigError, InputError
from sae.training.config import GRID, TrainingConfig

DICTIONARIES = ("training", "dictionaries")


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set one key in the values of a configuration.

    Where the key takes text, the value is taken literally, as the shell passed it; a value in quotation marks loses them. `null` stands for
    no value where the key allows that. Every other value is read as YAML.

    Raises:
        ConfigError: it is not `key=value`, the key is unknown, or the value is not YAML.
    """
    typed, equals, text = override.partition("=")
    if not equals or not typed:
        raise ConfigError(f"{shown(override)} is not an override: expected key=value, such as corpus.train_tokens=1000000")
    path = typed.split(".")
    if path[3:4] == [GRID] and len(path) > 4:  # the keys of a grid are themselves dotted
        path[4:] = [".".join(path[4:])]
    if tuple(path[:2]) == DICTIONARIES and len(path) > 2:
        _section(values, "training").setdefault("dictionaries", default_dictionaries())
    key = find_key(RunConfig, path)
    below_value = any(find_key(RunConfig, path[:depth]) for depth in range(1, len(path)))
    if key is None and not below_value and GRID not in path[3:4] and model_at(RunConfig, path, values) is None:
        raise ConfigError(describe_unknown(RunConfig, path, values))
    _set(values, path, _value(key, len(path), typed, text))


def default_dictionaries() -> list[dict[str, Any]]:
    """The dictionaries that are trained where no file names any, as a file would say it."""
    entries = []
    for dictionary in TrainingConfig().dictionaries:
        entry = dictionary.model_dump(mode="json", exclude_defaults=True)
        entries.append({**entry, "sae": {"architecture": dictionary.sae.architecture, **entry.get("sae", {})}})
    return entries


def _value(key: Key | None, depth: int, typed: str, text: str) -> Any:
    annotation = key.field.annotation if key else None
    if key and depth > key.path.count(".") + 1:
        annotation = typing.get_args(annotation)[1]  # of a value below free keys, such as labels.zone
    stripped = text.strip()
    takes_text, takes_texts, takes_null = _takes(annotation)
    if takes_null and stripped in ("null", "~"):
        return None
    is_quoted = len(stripped) > 1 and stripped[0] == stripped[-1] and stripped[0] in "'\""
    if (takes_text and not is_quoted) or (takes_texts and not is_quoted and not stripped.startswith("[")):
        return text
    if has_comment(text):
        raise ConfigError(f"{typed}={shown(text)[1:-1]}: what follows '#' would be a comment in YAML. Remove it, or quote the value")
    try:
        return parse_yaml(text, typed)
    except InputError as error:
        raise ConfigError(f"{error}: the value is not YAML (quote it)") from None


def _takes(annotation: Any) -> tuple[bool, bool, bool]:
    """Say whether a key takes text, a list of texts, and null."""
    if annotation is str:
        return True, False, False
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return all(isinstance(part, str) for part in parts), False, False
    if origin is typing.Annotated:
        return _takes(parts[0])
    if origin in (list, tuple):
        return False, _takes(parts[0])[0], False
    if type(None) in parts:
        text, texts, _ = _takes(next(part for part in parts if part is not type(None)))
        return text, texts, True
    return False, False, False


def _section(values: dict[str, Any], name: str) -> dict[str, Any]:
    section = values.setdefault(name, {})
    if section is None:
        section = values[name] = {}
    return section if isinstance(section, dict) else {}


def _set(values: dict[str, Any], path: Sequence[str], value: Any) -> None:
    node: Any = values
    for position, part in enumerate(path[:-1]):
        here = ".".join(path[: position + 1])
        if isinstance(node, list):
            node = node[_index(node, part, ".".join(path[:position]))]
        elif isinstance(node, dict):
            if node.get(part) is None:  # a section that is null gets its keys now
                node[part] = {}
            node = node[part]
        if not isinstance(node, dict | list):
            raise ConfigError(f"{'.'.join(path)}: {here} is {shown(node)} and has no keys")
    if isinstance(node, list):
        node[_index(node, path[-1], ".".join(path[:-1]))] = value
    else:
        node[path[-1]] = value


def _index(node: list[Any], part: str, where: str) -> int:
    names = [str(element.get("name", "")) if isinstance(element, dict) else "" for element in node]
    if part in names:
        return names.index(part)
    if part.isdecimal() and int(part[:9]) < len(node):
        return int(part[:9])
    known = [name or str(index) for index, name in enumerate(names)]
    raise ConfigError(f"{where}: no element {shown(part)}; there are {', '.join(known[:20])}{near_names(part, known)}")
