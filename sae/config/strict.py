"""Strict scalars throughout a pydantic schema: by default pydantic reads `true` as 1, and text as a number."""

import re
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

SMALLEST = 1e-30  # what is nearer to 0 vanishes in float32 arithmetic
INT64 = 2**63
_DECIMAL = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,3})?")
_OPAQUE = ("default", "expected", "metadata", "cls", "config", "serialization")  # parts of a core schema that hold no schemas of values


class Computable:
    """Marks a float that must be 0 or far enough from it to count in float32. A mark, so that bounds still become part of the float's own schema."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The schema of the float with the mark."""
        schema: Any = handler(source)
        schema["metadata"] = {**schema.get("metadata", {}), "computable": True}
        return schema


def with_strict_scalars(schema: Any) -> Any:
    """The core schema of a model, in which every Boolean, number and text is strict and every whole number bounded."""
    if isinstance(schema, list):
        return [with_strict_scalars(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    kind = schema.get("type")
    if kind in ("int", "float", "bool", "str") and "strict" not in schema:
        return _strict_scalar(schema)
    if kind == "function-before" and schema["function"]["function"] is _number_of_text:
        return schema  # of a nested configuration, which is strict already
    return {key: part if key in _OPAQUE else with_strict_scalars(part) for key, part in schema.items()}


def _strict_scalar(schema: Any) -> Any:
    strict = {**schema, "strict": True}
    if schema["type"] == "int":
        if "le" not in schema and "lt" not in schema:
            strict["lt"] = INT64
        if "ge" not in schema and "gt" not in schema:
            strict["ge"] = -INT64
    if schema["type"] == "float":
        computable = core_schema.no_info_after_validator_function(_not_tiny, strict) if schema.get("metadata", {}).get("computable") else strict
        return core_schema.with_info_before_validator_function(_number_of_text, computable)
    return strict


def _number_of_text(value: Any, info: core_schema.ValidationInfo) -> Any:
    if info.mode == "json":  # a record that a stage left: there text is never a number
        return value
    return float(value) if isinstance(value, str) and len(value) < 40 and _DECIMAL.fullmatch(value) else value


def _not_tiny(number: float) -> float:
    if 0 < abs(number) < SMALLEST:
        raise ValueError(f"{number!r} is too close to 0 to compute with: give 0 where that is allowed, or {SMALLEST:g} and more")
    return number
