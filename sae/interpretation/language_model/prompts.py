"""The prompts: readable files in `sae/interpretation/prompts`, one a question, versioned in their first line, hashed into every result.

A file is Jinja: a comment with its version, then messages, each begun by a line `=== system ===`, `=== user ===` or `=== assistant ===`. The
file is cut into messages before anything is filled in, so no value can begin a message; and values are never read as Jinja.
"""

import functools
import re
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined, Template

from sae.interpretation.language_model.exchange import Message
from sae.storage import sha256_hex

_BEGIN = re.compile(r"^=== (system|user|assistant) ===$", re.MULTILINE)
_ENVIRONMENT = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)


def messages(name: str, **values: Any) -> tuple[Message, ...]:
    """The messages of a prompt with its values filled in."""
    return tuple({"role": role, "content": template.render(values).strip()} for role, template in _templates(name))


def prompt_digest(name: str) -> str:
    """SHA-256 of the prompt's file: which words were used."""
    return sha256_hex(_source(name).encode())


def _source(name: str) -> str:
    return files("sae.interpretation").joinpath("prompts", f"{name}.j2").read_text(encoding="utf-8")


@functools.cache
def _templates(name: str) -> list[tuple[str, Template]]:
    _, *parts = _BEGIN.split(_source(name))
    return [(role, _ENVIRONMENT.from_string(text)) for role, text in zip(parts[::2], parts[1::2], strict=True)]
