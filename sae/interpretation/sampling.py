"""Random choices that depend on names and numbers only, so that any number of workers makes the same ones."""

import hashlib

import numpy as np


def draw_seed(*names: int | str) -> int:
    """A 63-bit seed that belongs to these names."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, names)).encode()).digest()[:8]) >> 1


def priorities(positions: np.ndarray, seed: int) -> np.ndarray:
    """A pseudo-random uint64 for each position: the same position has the same one, whatever else is in the list.

    Reference: the finalizer of SplitMix64 (Steele, Lea, Flood 2014).
    """
    mixed = positions.astype(np.uint64) + np.uint64(seed % 2**64)
    mixed *= np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
