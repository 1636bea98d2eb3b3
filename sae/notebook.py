"""Display of a dictionary, a store and a run in a notebook: a table of numbers and one small picture, as HTML without scripts."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

import numpy as np

WIDTH, HEIGHT, MARGIN = 320, 90, 14
STYLE = "font: 13px sans-serif; display: flex; gap: 24px; align-items: flex-start; flex-wrap: wrap"


def fragment(title: str, facts: Mapping[str, object], pictures: Iterable[str] = ()) -> str:
    """A title, a table of facts and pictures. Facts that are None are left out; all text is escaped."""
    known = {name: fact for name, fact in facts.items() if fact is not None}
    rows = "".join(f"<tr><th style='text-align: left'>{escape(name)}</th><td>{escape(shown(fact))}</td></tr>" for name, fact in known.items())
    return f"<div style='{STYLE}'><table style='font: inherit'>{_caption(title)}{rows}</table>{''.join(pictures)}</div>"


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table with a header; None shows as a dash, all text is escaped."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(shown(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table style='font: 13px sans-serif'>{_caption(title)}<tr>{head}</tr>{body}</table>"


def _caption(title: str) -> str:
    return f"<caption style='text-align: left; font-weight: bold'>{escape(title)}</caption>"


def shown(fact: object) -> str:
    """A fact as text: whole numbers with separators, others with three digits."""
    if fact is None:
        return "–"
    if isinstance(fact, float):
        return f"{fact:.3g}"
    return f"{fact:,}" if isinstance(fact, int) and not isinstance(fact, bool) else str(fact)


def histogram(values: np.ndarray, label: str, bins: int = 40) -> str:
    """A picture of how many of `values` are in each of equal bins; nothing where none is finite."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return ""
    counts, edges = np.histogram(finite, bins)
    step, bottom = (WIDTH - 2 * MARGIN) / bins, HEIGHT - MARGIN
    tops = [_height(count, counts.max()) for count in counts]
    bars = "".join(
        f"<rect x='{MARGIN + at * step:.1f}' y='{top:.1f}' width='{step * 0.9:.1f}' height='{bottom - top:.1f}'/>" for at, top in enumerate(tops)
    )
    return _picture(f"<g fill='#4477aa'>{bars}</g>", edges[0], edges[-1], label)


def curve(values: np.ndarray, label: str) -> str:
    """A picture of `values` over their index; nothing where there are fewer than two or one is not finite."""
    if len(values) < 2 or not np.isfinite(values).all():
        return ""
    step, top = (WIDTH - 2 * MARGIN) / (len(values) - 1), values.max()
    points = " ".join(f"{MARGIN + at * step:.1f},{_height(value, top):.1f}" for at, value in enumerate(values))
    return _picture(f"<polyline points='{points}' fill='none' stroke='#4477aa' stroke-width='1.5'/>", 0, len(values) - 1, label)


def _height(value: float, top: float) -> float:
    return HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * (max(value, 0) / top if top > 0 else 0)


def _picture(drawn: str, low: float, high: float, label: str) -> str:
    text = "font: 10px sans-serif"
    base = HEIGHT - 2
    return (
        f"<figure style='margin: 0'><figcaption>{escape(label)}</figcaption>"
        f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}' height='{HEIGHT}' role='img' aria-label='{escape(label)}'>{drawn}"
        f"<line x1='{MARGIN}' x2='{WIDTH - MARGIN}' y1='{HEIGHT - MARGIN}' y2='{HEIGHT - MARGIN}' stroke='#888'/>"
        f"<text x='{MARGIN}' y='{base}' style='{text}'>{low:.3g}</text>"
        f"<text x='{WIDTH - MARGIN}' y='{base}' text-anchor='end' style='{text}'>{high:.3g}</text></svg></figure>"
    )
