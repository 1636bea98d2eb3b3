"""The point with the least total distance to a sample of vectors."""

import torch
from jaxtyping import Float
from torch import Tensor


@torch.no_grad()
def geometric_median(vectors: Float[Tensor, "batch d_in"], tolerance: float = 1e-6, max_iterations: int = 500) -> Float[Tensor, " d_in"]:
    """The geometric median of `vectors`, where the pre-encoder bias of an autoencoder starts.

    m = argmin_m Σ_x ‖x − m‖₂, found by Weiszfeld's iteration m ← Σ_x x/‖x − m‖ / Σ_x 1/‖x − m‖ in float64 from the mean. It stops
    when a step moves m by less than `tolerance` times the mean distance of the vectors to m. A distance counts as at least 1e-9 of
    the mean distance, so that the iteration may pass through, or end in, one of the vectors.

    Reference: Weiszfeld 1937; Bricken et al. 2023, "Towards Monosemanticity", appendix "Advice for Training Sparse Autoencoders".

    Args:
        vectors: the sample, at least one vector.
        tolerance: the largest last step, relative to the mean distance.
        max_iterations: where to stop in any case; Weiszfeld's iteration never increases the total distance, so the last point is the best.

    Returns:
        The median in the dtype of `vectors`.
    """
    points = vectors.double()
    median = points.mean(dim=0)
    for _ in range(max_iterations):
        distances = torch.linalg.vector_norm(points - median, dim=1)
        mean_distance = distances.mean()
        if mean_distance == 0:
            break
        weights = 1 / distances.clamp(min=1e-9 * mean_distance.item())
        moved = (weights @ points) / weights.sum()
        step = torch.linalg.vector_norm(moved - median)
        median = moved
        if step <= tolerance * mean_distance:
            break
    return median.to(vectors.dtype)
