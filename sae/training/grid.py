"""One entry of a configuration that stands for many dictionaries: every combination of the values of its `grid`.

::

    - {name: topk, sae: {architecture: topk}, grid: {sae.k: [16, 32], sae.d_sae: [4096, 8192], seed: [0, 1]}}

becomes `topk-k16-d4096-s0`, `topk-k16-d4096-s1`, … in the order of the grid, the last key varying fastest.
"""

import itertools
from typing import Any

from sae.config import shown

MAX_DICTIONARIES = 256
GRID = "grid"
SHORT_NAMES = {"sae.d_sae": "d", "sae.k": "k", "seed": "s", "optimizer.learning_rate": "lr", "target_l0.l0": "l0", "sae.architecture": ""}


def expand_grids(entries: list[Any]) -> list[Any]:
    """Replace each entry that has a `grid` by its combinations; others stay as they are.

    Raises:
        ValueError: a grid that is no mapping of keys to lists of values, or is too large.
    """
    expanded: list[Any] = []
    for entry in entries:
        expanded += _combinations(entry) if isinstance(entry, dict) and GRID in entry else [entry]
    return expanded


def _combinations(entry: dict[str, Any]) -> list[dict[str, Any]]:
    grid = entry[GRID]
    if not isinstance(grid, dict) or not grid or not all(isinstance(values, list) and values for values in grid.values()):
        raise ValueError(f"grid: expected keys with lists of values, such as {{sae.k: [16, 32]}}, found {shown(grid)}")
    count = 1
    for values in grid.values():
        count *= len(values)
    if count > MAX_DICTIONARIES:
        raise ValueError(f"grid: {count:,} combinations are more than {MAX_DICTIONARIES}: train them in several runs")
    base = {key: value for key, value in entry.items() if key != GRID}
    return [_combination(base, dict(zip(grid, values, strict=True))) for values in itertools.product(*grid.values())]


def _combination(base: dict[str, Any], chosen: dict[str, Any]) -> dict[str, Any]:
    entry = dict(base)
    for path, value in chosen.items():
        _set(entry, path, value)
    sae = entry.get("sae")
    first = base.get("name") or (sae.get("architecture") if isinstance(sae, dict) and "sae.architecture" not in chosen else None)
    parts = [_short(path, value) for path, value in chosen.items()]
    entry["name"] = "-".join([first, *parts] if first else parts)
    return entry


def _set(entry: dict[str, Any], path: str, value: Any) -> None:
    *sections, last = path.split(".")
    node = entry
    for section in sections:
        below = node.get(section)
        if below is not None and not isinstance(below, dict):
            raise ValueError(f"grid: {path!r} leads through {section!r}, which is {shown(below)} and has no keys")
        node[section] = dict(below or {})  # its own copy: combinations share nothing
        node = node[section]
    node[last] = value


def _short(path: str, value: Any) -> str:
    key = SHORT_NAMES.get(path, path.rsplit(".", 1)[-1].removesuffix("_coefficient"))
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return key + ("-" if key[-1:].isdigit() else "") + text.replace("+", "").replace(" ", "")
