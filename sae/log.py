"""Structured log lines: one event a line, `key=value` fields, on standard error."""

import contextlib
import json
import logging
import re
import sys
from typing import Any

from tqdm import tqdm

LONGEST_VALUE = 2000  # characters: a visitor's words may be long
_PLAIN = re.compile(r"[\w@%+:,./*~-]+", re.ASCII)
_logger = logging.getLogger("monosem")


class _AboveProgressBars(logging.Handler):
    """Writes lines above the progress bars instead of through them."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):  # a terminal that was closed must not end what still cleans up
            tqdm.write(self.format(record), file=sys.stderr)


def start_logging() -> None:
    """Send log lines to standard error. Called once, by the command line."""
    if not _logger.handlers:
        handler = _AboveProgressBars()
        handler.setFormatter(logging.Formatter("time=%(asctime)s level=%(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S"))
        _logger.addHandler(handler)
        _logger.setLevel(logging.INFO)
        _logger.propagate = False


def log(event: str, **fields: Any) -> None:
    """Log one event; floats keep six digits, and no value can end its line or look like another field."""
    _logger.info("event=%s %s", event, _fields(fields))


def log_error(event: str, **fields: Any) -> None:
    """Log one event that somebody has to look at."""
    _logger.error("event=%s %s", event, _fields(fields))


def _fields(fields: dict[str, Any]) -> str:
    return " ".join(f"{name}={_value(value)}" for name, value in fields.items())


def _value(value: Any) -> str:
    """A value as it is where it is one plain word, else as a JSON string; what a terminal acts on is escaped."""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    text = text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…"
    if _PLAIN.fullmatch(text):
        return text
    return "".join(character if character.isprintable() else json.dumps(character)[1:-1] for character in json.dumps(text, ensure_ascii=False))
