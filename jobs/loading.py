"""One YAML file and dotted overrides to one validated configuration."""

import contextlib
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from jobs.config import RunConfig
from jobs.overrides import apply_override
from jobs.yaml_text import read_yaml
from sae.storage import absolute_url
from sae.training.grid import expand_grids


def load_config(path: str | None, overrides: list[str]) -> RunConfig:
    """Read a YAML file, apply `key=value` overrides, validate.

    Args:
        path: the YAML file, a path or URL; None takes a first override that is a file's name, or else starts from the defaults.
        overrides: `section.key=value`, the last of a key counts (see `jobs.overrides`); a list's element is named by its index or its `name`.

    Raises:
        InputError: the file is missing or is not YAML.
        ConfigError: an unknown key, a value that cannot be, an override that is not `key=value`.
    """
    if overrides and path is None and overrides[0].endswith((".yaml", ".yml")) and "=" not in overrides[0]:
        path, *overrides = overrides
    values = read_yaml(path) if path else {}
    for override in overrides:
        apply_override(values, override)
    _expand_grids(values)
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


def _expand_grids(values: dict[str, Any]) -> None:
    """Expand grids before validation, so that a mistake in one of their dictionaries is named by its name."""
    training = values.get("training")
    if isinstance(training, dict) and isinstance(training.get("dictionaries"), list):
        # A wrong grid is left for the validation, which names it.
        with contextlib.suppress(ValueError, TypeError, AttributeError):
            training["dictionaries"] = expand_grids(training["dictionaries"])


def _absolute(config: RunConfig) -> RunConfig:
    # Workers of a cluster start in other directories: a relative path would mean another place there.
    changed: dict[str, Any] = {"output": absolute_url(config.output), "subject": config.subject.absolute()}
    if config.store is not None:
        changed["store"] = absolute_url(config.store)
    return config.model_copy(update=changed)
