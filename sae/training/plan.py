"""Plan of a dictionary, written before its training: a command that resumes it must mean the same."""

from typing import Any

from sae.errors import PlanError


def compare_plans(found: dict[str, Any], wanted: dict[str, Any], where: str) -> None:
    """Refuse to go on with the work of another plan.

    Raises:
        PlanError: the plans differ; the message names the fields.
    """
    here, there = _flatten(found), _flatten(wanted)
    differing = sorted(key for key in here.keys() | there.keys() if here.get(key) != there.get(key))
    if differing:
        key = differing[0]
        others = f" (and {', '.join(differing[1:])})" if len(differing) > 1 else ""
        raise PlanError(
            f"{where} holds a dictionary trained with {key} = {here.get(key)!r}, expected {there.get(key)!r}{others}: "
            "choose another output or name, or delete it"
        )


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
