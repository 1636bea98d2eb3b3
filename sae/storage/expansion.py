"""A bound for what compressed content may become, so that a small file cannot become an endless one."""

from sae.errors import InputError

MAX_EXPANSION = 300
"""Text that is not made up compresses 3 to 30 times."""
FREE_BYTES = 64 * 2**20
"""Below this, expansion costs nothing."""


def check_expansion(decoded: int, stored: int, where: str) -> None:
    """Refuse content that `stored` bytes do not hold unless it is made up.

    Raises:
        InputError: `decoded` bytes are more than `MAX_EXPANSION` times as many, and more than `FREE_BYTES`.
    """
    if decoded > max(FREE_BYTES, MAX_EXPANSION * stored):
        raise InputError(f"{where} expands more than {MAX_EXPANSION} times when it is decompressed, as no text does. Leave it out")
