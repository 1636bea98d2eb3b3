"""Memory for batches, used again as soon as nobody holds it any more.

A batch that is written into memory the processor still has in its cache costs half of one that is written into fresh pages, and memory from the
allocator is rarely the same twice.
"""

import sys
import threading

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

MOST_KEPT = 8
_REFERENCES_OF_AN_UNUSED = 3  # from the list, the loop and the question itself


class BatchBuffers:
    """Tensors of one shape, whose memory comes back by itself when the last tensor and the last view on it are gone.

    Args:
        shape: of every tensor.
        dtype: of every tensor.
    """

    def __init__(self, shape: tuple[int, int], dtype: torch.dtype) -> None:
        self.shape, self.dtype = shape, dtype
        self._owners: list[np.ndarray] = []
        self._lock = threading.Lock()

    def take(self) -> Shaped[Tensor, "row d_in"]:
        """A tensor with arbitrary content."""
        with self._lock:
            owner = self._unused()
            if owner is None:
                owner = np.empty(self.shape[0] * self.shape[1] * self.dtype.itemsize, np.uint8)
                self._owners.append(owner)
                del self._owners[:-MOST_KEPT]
            return torch.from_numpy(owner).view(self.dtype).view(self.shape)

    def _unused(self) -> np.ndarray | None:
        # A tensor made of an array holds a reference to it until the last of its views is gone, so the count says whether one is left.
        for owner in reversed(self._owners):
            if sys.getrefcount(owner) == _REFERENCES_OF_AN_UNUSED:
                return owner
        return None
