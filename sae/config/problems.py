"""Messages about a wrong configuration: where in the user's own spelling, what was found, what is possible."""

import difflib
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from sae.config.keys import BUILT_IN_FAMILY, REGISTERED_FAMILY, TAG, find_key, model_at, near_keys, nested_models, tag_of
from sae.urls import without_credentials

MAX_SHOWN = 80
_SECRET_KEY = re.compile(r"api_?key|secret|password|passwd|credential|bearer", re.IGNORECASE)
_QUOTED = re.compile("'([^']*)'")
_EXPECTED = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float", "int_parsing_size"), "expected a whole number"),
    **dict.fromkeys(("float_type", "float_parsing", "finite_number"), "expected a finite number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "expected true or false"),
    "string_type": "expected text (quote a number that is meant as text)",
    **dict.fromkeys(("list_type", "tuple_type"), "expected a list"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "expected keys and values"),
}


def describe_problem(problem: Any, model: type[BaseModel] | None = None, values: Any = None) -> str:
    """Describe one pydantic problem.

    Args:
        problem: an element of `ValidationError.errors()`.
        model: the configuration that was validated, for suggestions.
        values: what was validated, so that elements of lists are named as the user names them.
    """
    kind, context = problem["type"], problem.get("ctx", {})
    path, where = _typed_path(problem["loc"], values, kind)
    found = "a value not shown here" if _SECRET_KEY.search(where) else shown(problem["input"])
    if kind == "extra_forbidden":
        return describe_unknown(model, path, values)
    if kind in ("missing", "union_tag_not_found"):
        return f"missing key {where!r}" if kind == "missing" else f"missing key {f'{where}.{TAG}'!r}{_tags(model, problem['loc'])}"
    if kind == "value_error":
        return f"{where}: {without_credentials(str(context['error']))}" if path else without_credentials(str(context["error"]))
    if kind in ("literal_error", "union_tag_invalid"):
        choices = _QUOTED.findall(context.get("expected") or context["expected_tags"])
        chosen = context.get("tag", problem["input"])
        key = f"{where}.{TAG}" if "tag" in context else where
        return f"{key}: expected one of {', '.join(choices)}, found {shown(chosen)}{near_names(chosen, choices)}"
    wrong = _EXPECTED.get(kind) or problem["msg"][:1].lower() + problem["msg"][1:]
    return f"{where}: {wrong}, found {found}"


def describe_unknown(model: type[BaseModel] | None, path: list[str], values: Any = None) -> str:
    """Describe a key that no configuration has, with those that may be meant.

    Args:
        model: the configuration that was validated; None gives no suggestion.
        path: the key as the user typed it.
        values: what was validated, to tell variants of a section apart.
    """
    unknown = f"unknown key {shown('.'.join(path))}"
    if model is None:
        return unknown
    known = model_at(model, path[:-1], values)
    names = ", ".join(known.model_fields) if known else ""
    if (key := find_key(model, path)) is not None and key.owners and known is not None:
        return f"{unknown}: it is a key of {', '.join(key.owners)}; {tag_of(known)} has {names}"
    if near := near_keys(model, path, values):
        return f"{unknown}: did you mean {' or '.join(near)}?"
    return f"{unknown} (known: {names})" if known else f"{unknown} (`monosem keys` lists the known ones)"


def near_names(found: Any, choices: list[str]) -> str:
    """The choice most like a mistyped one as the end of a message, or nothing."""
    near = difflib.get_close_matches(found[:100], choices, n=1) if isinstance(found, str) else []
    return f": did you mean {near[0]}?" if near else ""


def shown(value: Any) -> str:
    """A value for a message: short whatever its size, and without credentials."""
    if isinstance(value, str):
        text = without_credentials(value[: 4 * MAX_SHOWN])
        quoted = repr(text)
        return quoted if len(quoted) <= MAX_SHOWN and len(value) <= 4 * MAX_SHOWN else f"{quoted[: MAX_SHOWN - 3]}…' ({len(value):,} characters)"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, int):
        return str(value) if abs(value) < 10**40 else f"a number of more than {int(value.bit_length() * 0.30103):,} digits"
    if isinstance(value, Mapping):
        return "keys and values" if value else "no keys and values ({})"
    if isinstance(value, list | tuple):
        return f"a list of {len(value):,}"
    return repr(value) if isinstance(value, float) else f"a {type(value).__name__}"


def _typed_path(loc: tuple[int | str, ...], values: Any, kind: str) -> tuple[list[str], str]:
    """The path of a problem as the user writes it: names for elements of lists, and no tag of a union."""
    path: list[str] = []
    for index, part in enumerate(loc):
        is_last = index == len(loc) - 1
        if isinstance(values, Mapping):
            if part in values or (is_last and kind in ("missing", "extra_forbidden")):
                values = values.get(part)
            elif len(loc) > 1 and part in (tag_of(values), BUILT_IN_FAMILY, REGISTERED_FAMILY):
                continue
            else:
                values = None
        elif isinstance(values, list | tuple) and isinstance(part, int):
            values = values[part] if part < len(values) else None
            part = _name_of(values, part)
        path.append(shown(part)[1:-1] if isinstance(part, str) else str(part))
    return path, ".".join(path) or "the configuration"


def _name_of(element: Any, index: int) -> str | int:
    name = element.get("name") if isinstance(element, Mapping) else None
    return name if isinstance(name, str) and name else index


def _tags(model: type[BaseModel] | None, loc: tuple[int | str, ...]) -> str:
    field = None
    for part in loc:
        models = nested_models(field.annotation) if field else [model] if model else []
        field = next((each.model_fields[str(part)] for each in models if str(part) in each.model_fields), field)
    names = [tag for each in nested_models(field.annotation) if (tag := tag_of(each))] if field else []
    return f" (one of {', '.join(names)})" if names else ""
