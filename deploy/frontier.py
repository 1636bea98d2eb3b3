"""The README's picture of the frontier, from a finished run: `python deploy/frontier.py RUN OUTPUT.svg` (see `make frontier`).

The report's own drawing, with the page's colours written into it, so that it can stand alone and still follows a dark page.
"""

import re
import sys
from importlib.resources import files
from pathlib import Path

from sae.report.gather import gather
from sae.report.training_charts import frontiers, legend_and_colors
from sae.storage import Place


def main(run: str, output: str) -> None:
    """Write L0 against FVU and against loss recovered side by side as one SVG."""
    record = gather(Place(run))
    entries, by_name = legend_and_colors(record.dictionaries)
    css = files("sae.report").joinpath("report.css").read_text(encoding="utf-8")
    colors = "".join(re.findall(r":root \{[^}]*\}", css)[:1]) + "@media (prefers-color-scheme: dark) {" + re.findall(r":root \{[^}]*\}", css)[1] + "}"
    width, height, gap = 288, 202, 16
    drawn = []
    for number, drawing in enumerate(frontiers(record, by_name)):
        place = f'<svg x="{number * (width + gap)}" y="24" width="{width}" height="{height}"'
        drawn.append(re.sub(r"^<svg", place, drawing.svg, count=1))
    legend, x = [], 8
    for entry in entries:
        legend.append(f'<rect x="{x}" y="7" width="14" height="4" fill="var(--series-{entry.color})"/><text x="{x + 19}" y="12">{entry.name}</text>')
        x += 36 + 6 * len(entry.name)
    total = len(drawn) * (width + gap) - gap
    style = f"<style>{colors} text {{ fill: var(--ink); font: 9px sans-serif; }}</style>"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 {total} {height + 28}">'
    Path(output).write_text(f"{head}{style}{''.join(legend)}{''.join(drawn)}</svg>\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
