"""`monosem keys`: the keys of the configuration with defaults, bounds and meaning."""

import argparse
import shutil
import textwrap
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from jobs.config import RunConfig
from jobs.resolved import print_schema
from sae.config import describe_unknown, find_key, model_at, nested_models
from sae.errors import ConfigError


def keys_verb(options: argparse.Namespace) -> None:
    """Print all keys, those of one section, or the JSON schema.

    Raises:
        ConfigError: there is no such section or key.
    """
    if options.schema:
        print_schema()
        return
    width = max(40, shutil.get_terminal_size((100, 24)).columns)
    print("\n".join(wrapped(line, width) for line in section_lines(options.section)))


def sections_help(sections: str, width: int) -> str:
    """All keys of the sections that a command reads, for `--help-all`.

    Args:
        sections: names of sections, "all", or "all but" names (`jobs.usage.SECTIONS`).
        width: of the terminal, in columns.
    """
    words = sections.replace(",", " ").split()
    named = [name for name in RunConfig.model_fields if name in words]
    shown = [name for name in RunConfig.model_fields if name not in named] if "all" in words or not named else named
    return "\n".join(wrapped(line, width) for name in shown for line in section_lines(name))


def section_lines(section: str | None) -> list[str]:
    """A line for every key, or for every key of a section.

    Raises:
        ConfigError: there is no such section or key.
    """
    lines = list(describe_config())
    if section is None:
        return lines
    path = section.removesuffix("…").rstrip(".").split(".")
    known = model_at(RunConfig, path) is not None or find_key(RunConfig, path) is not None
    if not known:
        raise ConfigError(describe_unknown(RunConfig, path))
    prefix = ".".join(path)
    return [line for line in lines if line.strip() == prefix or line.strip().startswith((f"{prefix}.", f"{prefix} = "))]


def describe_config(model: type[BaseModel] = RunConfig, prefix: str = "", default: BaseModel | None = None) -> Iterator[str]:
    """A line for every key: name, default and description. `default` overrules the defaults of `model` itself."""
    for name, field in model.model_fields.items():
        value = getattr(default, name) if default is not None else field.get_default(call_default_factory=True)
        nested = nested_models(field.annotation)
        if not nested:
            shown = "required" if default is None and field.is_required() else default_text(value)
            yield f"    {prefix}{name} = {shown}".ljust(58) + f"  {type_text(field.annotation)}: {field.description or ''}{_bounds(field)}"
            continue
        inner = f"{prefix}{name}." + ("NAME." if isinstance(value, list) else "")
        for variant in nested:
            yield f"  {inner}…  {(field.description if len(nested) == 1 else None) or variant.__doc__}"
            yield from describe_config(variant, inner, value if isinstance(value, variant) else None)


def type_text(annotation: Any) -> str:
    """The type of a key in a word or two: text, int, number, true|false, list, mapping, or its choices."""
    origin, parts = typing.get_origin(annotation), [part for part in typing.get_args(annotation) if part is not type(None)]
    if origin is typing.Literal:
        return "|".join(map(str, parts)) if 1 < len(parts) < 4 else "choice"
    if origin in (list, tuple, dict):
        return "mapping" if origin is dict else "list"
    if origin is not None:  # an optional or an annotated type: the first says it
        return type_text(parts[0])
    return {str: "text", int: "int", float: "number", bool: "true|false"}.get(annotation, getattr(annotation, "__name__", "value"))


def default_text(value: Any) -> str:
    """A default as YAML has it."""
    text = "null" if value is None else repr(value) if not isinstance(value, list) else f"[{', '.join(map(_element, value))}]"
    return text.replace("True", "true").replace("False", "false")


def wrapped(line: str, width: int) -> str:
    """A line of the list within the width of a terminal: what is too long continues below the key, indented."""
    if len(line) <= width:
        return line
    key, _, meaning = (part.strip() for part in line.strip().partition("  "))
    indent = " " * (len(line) - len(line.lstrip()))
    first = textwrap.wrap(key, width, initial_indent=indent, subsequent_indent=f"{indent}  ")
    return "\n".join([*first, *textwrap.wrap(meaning, width, initial_indent=f"{indent}    ", subsequent_indent=f"{indent}    ")])


def _element(value: Any) -> str:
    return str(getattr(value, "name", value))


def _bounds(field: Any) -> str:
    limits = {name: getattr(mark, name) for mark in field.metadata for name in ("ge", "gt", "le", "lt") if getattr(mark, name, None) is not None}
    low = f"{limits['ge']:,}" if "ge" in limits else f"above {limits['gt']:,}" if "gt" in limits else ""
    high = f"{limits['le']:,}" if "le" in limits else f"below {limits['lt']:,}" if "lt" in limits else ""
    return f" ({low} to {high})" if low and high else ""
