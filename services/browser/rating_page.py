"""The rating page: one HTML document that is the same for every run; cards come to its script as JSON."""

import json
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from sae.rating.records import MAX_TEXT, RATER_NAME
from sae.rating.rubric import MOST, PARTS
from sae.report.script import own_file


def rating_script() -> str:
    """The page's only script: examples are drawn by what draws them in the report."""
    return own_file("feature_view.js") + _file("rating.js")


def rating_page() -> str:
    """The page as text; the rubric and the keys come from `sae.rating.rubric`."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_file("rating.html.j2")).render(
        parts=PARTS,
        most=MOST,
        max_text=MAX_TEXT,
        rater_name=RATER_NAME,
        keys=json.dumps([part.key for part in PARTS]),
        css=Markup(own_file("report.css") + _file("rating.css")),
        script=Markup(rating_script()),
    )


def _file(name: str) -> str:
    return files("sae.rating").joinpath(name).read_text(encoding="utf-8")
