"""Workers that talk to each other through torch.distributed: gloo between CPUs, NCCL between GPUs."""

import time

import torch
import torch.distributed as dist
from jaxtyping import Float, Shaped
from torch import Tensor

from sae.parallel.workers import Workers


class ProcessGroups(Workers):
    """One process among several, along either axis or both; each axis is a process group of torch.distributed.

    Args:
        data: the ranks that hold other rows of the same batch; None: this process holds them all.
        features: the ranks that hold other features of the same dictionary; None: this process holds them all.
        device: where this process computes, and where NCCL wants everything that it sends.
    """

    def __init__(self, data: dist.ProcessGroup | None = None, features: dist.ProcessGroup | None = None, device: str | torch.device = "cpu") -> None:
        super().__init__(device)
        self._data, self._features = data, features
        if data is not None:
            self.data_rank, self.data_size = dist.get_rank(data), dist.get_world_size(data)
        if features is not None:
            self.feature_rank, self.feature_size = dist.get_rank(features), dist.get_world_size(features)

    def sum_rows(self, values: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """Sum over data ranks."""
        return self._sum(values.detach(), self._data) if self._data is not None else values

    def num_rows(self, local: int) -> int:
        """Rows of the global batch, of which this rank holds `local`."""
        return int(self.sum_rows(torch.tensor(local, device=self.device)).item())

    def gather_rows(self, values: Shaped[Tensor, " local"]) -> Shaped[Tensor, " all"]:
        """Gather what the data ranks hold, in the order of their ranks."""
        if self._data is None:
            return values
        sizes = self._gather(torch.tensor([len(values)], device=self.device), self._data)
        padded = values.new_zeros(max(int(size) for size in sizes))
        padded[: len(values)] = values.detach()
        return torch.cat([part[: int(size)] for part, size in zip(self._gather(padded, self._data), sizes, strict=True)])

    def sum_features(self, partial: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Sum over feature ranks."""
        return _SumForward.apply(partial, self) if self._features is not None else partial

    def to_features(self, replicated: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The identity, whose gradient is summed over feature ranks."""
        return _SumBackward.apply(replicated, self) if self._features is not None else replicated

    def gather_features(self, values: Shaped[Tensor, "... local"]) -> Shaped[Tensor, "... all"]:
        """Gather what the feature ranks hold, one after the other along the last axis."""
        return torch.cat(self._gather(values.detach().contiguous(), self._features), dim=-1) if self._features is not None else values

    def sum_over_features(self, values: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """The sum over feature ranks, outside the autograd graph."""
        return self._sum(values, self._features) if self._features is not None else values

    def _sum(self, values: Shaped[Tensor, "..."], group: dist.ProcessGroup) -> Shaped[Tensor, "..."]:
        began = time.perf_counter()
        summed = values.to(self.device).clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed, group=group)
        self._note(summed, began)
        return summed.to(values.device)

    def _gather(self, values: Shaped[Tensor, "..."], group: dist.ProcessGroup) -> list[Tensor]:
        began = time.perf_counter()
        sent = (values.to(torch.uint8) if values.dtype == torch.bool else values).to(self.device)
        parts = [torch.empty_like(sent) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, sent, group=group)
        self._note(sent, began)
        return [part.to(values.device, values.dtype) for part in parts]

    def _note(self, sent: Shaped[Tensor, "..."], began: float) -> None:
        self.bytes_sent += sent.numel() * sent.element_size()
        self.seconds += time.perf_counter() - began


class _SumForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, partial, workers):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN205
        return workers.sum_over_features(partial)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN205
        return gradient, None


class _SumBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, replicated, workers):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN205
        ctx.workers = workers
        return replicated.view_as(replicated)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN205
        return ctx.workers.sum_over_features(gradient), None
