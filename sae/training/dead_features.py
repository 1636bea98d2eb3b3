"""Which features have not fired for how long, counted in vectors so that it means the same at any batch size."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor


class DeadFeatureTracker:
    """Counts, for each feature, the vectors seen since it last fired.

    Attributes:
        silent_vectors: vectors seen since the last batch in which the feature fired; the whole state, to be saved with a checkpoint.

    Example:
        >>> tracker = DeadFeatureTracker(d_sae=2)
        >>> tracker.update(torch.tensor([True, False]), num_vectors=100)
        >>> tracker.dead(window_vectors=100).tolist()
        [False, True]
    """

    silent_vectors: Int[Tensor, " d_sae"]

    def __init__(self, d_sae: int, device: str | torch.device = "cpu") -> None:
        self.silent_vectors = torch.zeros(d_sae, dtype=torch.int64, device=device)

    def update(self, active: Bool[Tensor, " d_sae"], num_vectors: int) -> None:
        """Note which features fired at all in a batch of `num_vectors`."""
        self.silent_vectors += num_vectors
        self.silent_vectors[active] = 0

    def dead(self, window_vectors: int) -> Bool[Tensor, " d_sae"]:
        """Features silent for at least `window_vectors`; none are before that many vectors have been seen."""
        return self.silent_vectors >= window_vectors

    def revive(self, feature_ids: Int[Tensor, " features"]) -> None:
        """Begin to count anew for features that were given new weights."""
        self.silent_vectors[feature_ids] = 0
