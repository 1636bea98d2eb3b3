"""One YAML file and dotted overrides to one validated configuration."""

import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from jobs.config import RunConfig
from sae.errors import ConfigError, InputError
from sae.storage import Place, absolute_url


def load_config(path: str | None, overrides: list[str]) -> RunConfig:
    """Read a YAML file, apply `key=value` overrides, validate.

    Args:
        path: the YAML file, a path or URL; None takes a first override that is a file's name, or else starts from the defaults.
        overrides: `section.key=value`; the value is read as YAML; a list's element is named by its index or its `name`.

    Raises:
        InputError: the file is missing or is not YAML.
        ConfigError: an unknown key, a value that cannot be, an override that is not `key=value`.
    """
    if overrides and path is None and overrides[0].endswith((".yaml", ".yml")) and "=" not in overrides[0]:
        path, *overrides = overrides
    values = _read_yaml(path) if path else {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"{override!r} is not an override: expected key=value, such as corpus.train_tokens=1000000")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(f"{override!r}: the value is not YAML (quote it)") from None
        _set(values, key.split("."), value, override)
    return _absolute(RunConfig.parse(values))


def describe_config(model: type[BaseModel] = RunConfig, prefix: str = "", default: BaseModel | None = None) -> Iterator[str]:
    """A line for every key: name, default and description, for `--help`. `default` overrules the defaults of `model` itself."""
    for name, field in model.model_fields.items():
        value = getattr(default, name) if default is not None else field.get_default(call_default_factory=True)
        nested = _nested_models(field.annotation)
        if not nested:
            shown = "required" if default is None and field.is_required() else _short(value)
            yield f"    {prefix}{name} = {shown}".ljust(58) + f"  {field.description or ''}"
            continue
        inner = f"{prefix}{name}." + ("NAME." if isinstance(value, list) else "")
        for variant in nested:
            yield f"  {inner}…  {(field.description if len(nested) == 1 else None) or variant.__doc__}"
            yield from describe_config(variant, inner, value if isinstance(value, variant) else None)


def _nested_models(annotation: Any) -> list[type[BaseModel]]:
    """The configurations that a field holds, be it one, a list of them, one of several or none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in _nested_models(part)]


def _short(value: Any) -> str:
    text = "null" if value is None else repr(value) if not isinstance(value, list) else f"[{', '.join(map(_element, value))}]"
    return text.replace("True", "true").replace("False", "false")


def _element(value: Any) -> str:
    return str(getattr(value, "name", value))


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        text = _text_at(path)
    except OSError as error:
        raise InputError(f"cannot read the configuration {path!r}: {error.strerror} (ready ones lie in deploy/configs)") from None
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path} holds {type(values).__name__}, expected keys and values (ready ones lie in deploy/configs)")
    return values


def _text_at(path: str) -> str:
    if "://" not in path:
        return Path(path).read_text(encoding="utf-8")
    place, _, key = path.rpartition("/")
    return Place(place).get(key).decode("utf-8", errors="replace")


def _set(values: dict[str, Any], keys: list[str], value: Any, override: str) -> None:
    node: Any = values
    for position, key in enumerate(keys[:-1]):
        node = node[_index(node, key, override)] if isinstance(node, list) else node.setdefault(key, {})
        if not isinstance(node, dict | list):
            raise ConfigError(f"{override!r}: {'.'.join(keys[: position + 1])} is {node!r} and has no keys")
    if isinstance(node, list):
        node[_index(node, keys[-1], override)] = value
    else:
        node[keys[-1]] = value


def _index(node: list[Any], key: str, override: str) -> int:
    names = [str(element.get("name", "")) if isinstance(element, dict) else "" for element in node]
    if key in names:
        return names.index(key)
    if key.isdigit() and int(key) < len(node):
        return int(key)
    raise ConfigError(f"{override!r}: no element {key!r}; there are {', '.join(name or str(index) for index, name in enumerate(names))}")


def _absolute(config: RunConfig) -> RunConfig:
    # Workers of a cluster start in other directories: a relative path would mean another place there.
    changed: dict[str, Any] = {"output": absolute_url(config.output), "subject": config.subject.absolute()}
    if config.store is not None:
        changed["store"] = absolute_url(config.store)
    return config.model_copy(update=changed)
