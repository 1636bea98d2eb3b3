"""`monosem config`: the configuration that a command would use, as a file."""

import argparse
import json

import yaml

from jobs.config import RunConfig
from jobs.loading import load_config


def config_verb(options: argparse.Namespace) -> None:
    """Print the resolved configuration as YAML, every key with its value, or the JSON schema of the configuration.

    Raises:
        UserError: the file cannot be read, a key is unknown or a value is not allowed.
    """
    if options.schema:
        print_schema()
        return
    config = load_config(options.config, options.overrides)
    print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120), end="")


def print_schema() -> None:
    """Print the JSON schema of the configuration, for editors and programs."""
    print(json.dumps(RunConfig.model_json_schema(), indent=1, ensure_ascii=False))
