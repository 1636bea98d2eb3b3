"""One YAML file and dotted overrides to one validated configuration."""

import contextlib
from typing import Any

from jobs.config import RunConfig
from jobs.overrides import apply_override
from jobs.ready import take_file
from jobs.yaml_text import read_yaml
from sae.storage import absolute_url
from sae.storage.json_objects import DIGEST_FIELD
from sae.training.config import expand_grids


def load_config(path: str | None, overrides: list[str]) -> RunConfig:
    """Read a YAML file, apply `key=value` overrides, validate.

    Args:
        path: the YAML file, a path, a URL or the name of a ready configuration; None takes the first override that names a file, or else
            starts from the defaults.
        overrides: `section.key=value`, the last of a key counts (see `jobs.overrides`); a list's element is named by its index or its `name`.

    Raises:
        InputError: the file is missing or is not YAML.
        ConfigError: an unknown key, a value that cannot be, an override that is not `key=value`.
    """
    path, overrides = take_file(path, overrides)
    values = read_yaml(path) if path else {}
    if path and path.endswith(".json"):
        values.pop(DIGEST_FIELD, None)  # the seal of a run's own config.json, which may be edited and used again
    for override in overrides:
        apply_override(values, override)
    _expand_grids(values)
    return _absolute(RunConfig.parse(values))


def _expand_grids(values: dict[str, Any]) -> None:
    """Expand grids before validation, so that a mistake in one of their dictionaries is named by its name."""
    training = values.get("training")
    if isinstance(training, dict) and isinstance(training.get("dictionaries"), list):
        # A wrong grid is left for the validation, which names it.
        with contextlib.suppress(ValueError, TypeError, AttributeError):
            training["dictionaries"] = expand_grids(training["dictionaries"])


def _absolute(config: RunConfig) -> RunConfig:
    # Workers of a cluster start in other directories: a relative path would mean another place there.
    changed: dict[str, Any] = {"output": absolute_url(config.output), "subject": config.subject.absolute()}
    if config.store is not None:
        changed["store"] = absolute_url(config.store)
    return config.model_copy(update=changed)
