"""The script of the report's page, and the digest by which a content security policy allows it and no other."""

import base64
import hashlib
from importlib.resources import files

SCRIPTS = ("feature_view.js", "report.js")


def page_script(with_features: bool) -> str:
    """The text of the page's only script; a report without features has nothing to run."""
    return "".join(own_file(name) for name in SCRIPTS) if with_features else '"use strict";\n'


def script_digest(script: str) -> str:
    """The SHA-256 of a script in base64, as `script-src 'sha256-…'` wants it."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def own_file(name: str) -> str:
    """The text of a file of this package."""
    return files("sae.report").joinpath(name).read_text(encoding="utf-8")
