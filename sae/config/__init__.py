"""Configurations: frozen, strict and bounded settings whose mistakes are named in the user's own words."""

from sae.config.base import Config
from sae.config.keys import BUILT_IN_FAMILY, REGISTERED_FAMILY, Key, find_key, model_at, near_keys, nested_models, walk_keys
from sae.config.problems import describe_problem, describe_unknown, near_names, shown
from sae.config.values import DAY, WEEK, Gpus, Labels, Line, Location, Locations, Name, Real, Seed, WebAddress, as_list, refuse_repetition

__all__ = [
    "BUILT_IN_FAMILY",
    "DAY",
    "REGISTERED_FAMILY",
    "WEEK",
    "Config",
    "Gpus",
    "Key",
    "Labels",
    "Line",
    "Location",
    "Locations",
    "Name",
    "Real",
    "Seed",
    "WebAddress",
    "as_list",
    "describe_problem",
    "describe_unknown",
    "find_key",
    "model_at",
    "near_keys",
    "near_names",
    "nested_models",
    "refuse_repetition",
    "shown",
    "walk_keys",
]
