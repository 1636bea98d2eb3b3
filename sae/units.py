"""The word for the numbers of an activation, which dictionaries are compared with: only an MLP has neurons."""

import re

NEURONS = "neurons"  # name of the source in every record, whatever its hookpoint
NEURON_HOOKPOINT = re.compile(r"blocks\.\d+\.mlp\.(hook_pre|hook_post|hook_pre_linear|in\.hook_out|gate\.hook_out|out\.hook_in)")


def unit_name(hookpoint: str) -> str:
    """The word that people read for single numbers at a hookpoint.

    Example:
        >>> unit_name("blocks.3.mlp.hook_post"), unit_name("blocks.3.hook_resid_post")
        ('neurons', 'coordinates')
    """
    return NEURONS if NEURON_HOOKPOINT.fullmatch(hookpoint) else "coordinates"


def shown_source(source: str, hookpoint: str) -> str:
    """The name of a source as people read it."""
    return unit_name(hookpoint) if source == NEURONS else source
