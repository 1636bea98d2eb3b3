"""Structured log lines: one event a line, `key=value` fields, on standard error."""

import logging
import shlex
import sys
from typing import Any

from tqdm import tqdm

_logger = logging.getLogger("monosem")


class _AboveProgressBars(logging.Handler):
    """Writes lines above the progress bars instead of through them."""

    def emit(self, record: logging.LogRecord) -> None:
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
    """Log one event; values with spaces are quoted, floats keep six digits."""
    _logger.info("event=%s %s", event, " ".join(f"{name}={_value(value)}" for name, value in fields.items()))


def _value(value: Any) -> str:
    return shlex.quote(f"{value:.6g}" if isinstance(value, float) else str(value))
