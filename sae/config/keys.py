"""The keys of a configuration by their dotted paths, and those near to a mistyped one."""

import difflib
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

ELEMENT = "NAME"
"""What stands in a path for the name or index of a list's element."""
BUILT_IN_FAMILY, REGISTERED_FAMILY = "built-in", "registered"  # tags that pydantic puts into the place of an error, next to the architecture
TAG = "architecture"


@dataclass(frozen=True)
class Key:
    """One key of a configuration.

    Attributes:
        path: dotted, with `NAME` for an element of a list.
        field: its type, bounds and description.
        owners: the values of `architecture` that have this key, where not all have it.
    """

    path: str
    field: FieldInfo
    owners: tuple[str, ...] = ()


def walk_keys(model: type[BaseModel], prefix: str = "") -> Iterator[Key]:
    """Every key of a configuration that holds a value, in the order of declaration; variants of one section are merged."""
    for name, field in model.model_fields.items():
        nested = nested_models(field.annotation)
        if not nested:
            yield Key(prefix + name, field)
            continue
        below = f"{prefix}{name}." + (f"{ELEMENT}." if is_list(field.annotation) else "")
        yield from _merged(nested, below) if len(nested) > 1 else walk_keys(nested[0], below)


def nested_models(annotation: Any) -> list[type[BaseModel]]:
    """The configurations that a field holds, be it one, a list of them, one of several or none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in nested_models(part)]


def is_list(annotation: Any) -> bool:
    """Say whether a field holds a list of configurations, or one."""
    return typing.get_origin(annotation) in (list, tuple) or any(is_list(part) for part in typing.get_args(annotation))


def tag_of(found: Any) -> str | None:
    """The architecture of a section: of its values, or of its class."""
    if isinstance(found, type):
        return found.model_fields[TAG].default if issubclass(found, BaseModel) and TAG in found.model_fields else None
    tag = found.get(TAG) if isinstance(found, Mapping) else None
    return tag if isinstance(tag, str) else None


def model_at(model: type[BaseModel], path: Sequence[str], values: Any = None) -> type[BaseModel] | None:
    """The configuration at a path of keys, element names and indices; of several variants the one that `values` choose, else the first."""
    current, parts = model, iter(path)
    for part in parts:
        field = current.model_fields.get(part)
        values = values.get(part) if isinstance(values, Mapping) else None
        if field is None or not (nested := nested_models(field.annotation)):
            return None
        if is_list(field.annotation):
            values = _element(values, next(parts, ""))
        current = next((each for each in nested if tag_of(each) == tag_of(values)), nested[0])
    return current


def find_key(model: type[BaseModel], path: Sequence[str]) -> Key | None:
    """The key at a typed path, in whichever variant has it; a path into free keys, such as `labels.zone`, has the key above it."""
    for key in walk_keys(model):
        pattern = key.path.split(".")
        if len(path) > len(pattern) and not _is_open(key.field):
            continue
        if len(path) >= len(pattern) and all(one in (ELEMENT, other) for one, other in zip(pattern, path, strict=False)):
            return key
    return None


def near_keys(model: type[BaseModel], path: Sequence[str], values: Any = None, most: int = 2) -> list[str]:
    """The keys and sections most like a mistyped path, in the path's own spelling, nearest first."""
    *above, last = path
    here = model_at(model, above, values)
    if here is not None and (siblings := difflib.get_close_matches(last, here.model_fields, n=most, cutoff=0.6)):
        return [".".join([*above, name]) for name in siblings]
    known = [_spelt(key.path, path) for key in walk_keys(model)]
    typed = ".".join(path)
    if found := difflib.get_close_matches(typed, known, n=1, cutoff=0.85):
        return found
    ends = [name for name in known if name.rpartition(".")[2] == last]
    return sorted(ends, key=lambda name: (name.count("."), name))[:most]


def _merged(variants: list[type[BaseModel]], prefix: str) -> Iterator[Key]:
    found: dict[str, tuple[FieldInfo, list[str]]] = {}
    for variant in variants:
        for key in walk_keys(variant, prefix):
            found.setdefault(key.path, (key.field, []))[1].append(tag_of(variant) or "")
    for path, (field, owners) in found.items():
        yield Key(path, field, () if len(owners) == len(variants) else tuple(owners))


def _element(values: Any, name: str) -> Any:
    if not isinstance(values, list | tuple):
        return None
    named = next((each for each in values if isinstance(each, Mapping) and each.get("name") == name), None)
    return named if named is not None else values[int(name)] if name.isdecimal() and int(name) < len(values) else None


def _is_open(field: FieldInfo) -> bool:
    return typing.get_origin(field.annotation) is dict


def _spelt(pattern: str, path: Sequence[str]) -> str:
    parts = pattern.split(".")
    return ".".join(path[index] if part == ELEMENT and index < len(path) else part for index, part in enumerate(parts))
