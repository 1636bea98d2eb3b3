"""The device that a worker computes on."""

import os

import torch

VARIABLE = "MONOSEM_DEVICE"
"""Set by an executor for workers that were given no GPU: Ray leaves the GPUs of a machine visible to them."""


def device() -> str:
    """Return the device that this process computes on: the one that the environment names, else a GPU if there is one, else the CPU."""
    return os.environ.get(VARIABLE) or ("cuda" if torch.cuda.is_available() else "cpu")
