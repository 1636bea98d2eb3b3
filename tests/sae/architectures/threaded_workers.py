"""Several workers in one process: a thread each, meeting at a barrier. What `sae.parallel.workers` promises, without processes."""

import threading
from concurrent.futures import ThreadPoolExecutor

import torch

from sae.parallel.workers import Workers


class _Meeting:
    """Ranks of one axis exchange a tensor each."""

    def __init__(self, size):
        self.size, self.barrier, self.given = size, threading.Barrier(size, timeout=60), [None] * size

    def exchange(self, rank, values):
        self.given[rank] = values.detach().clone()
        self.barrier.wait()
        everyone = list(self.given)
        self.barrier.wait()
        return everyone

    def sum(self, rank, values):
        return torch.stack(self.exchange(rank, values)).sum(0)


class _SumForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, meeting, rank):
        return meeting.sum(rank, values)

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None, None


class _SumBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, meeting, rank):
        ctx.meeting, ctx.rank = meeting, rank
        return values.view_as(values)

    @staticmethod
    def backward(ctx, gradient):
        return ctx.meeting.sum(ctx.rank, gradient), None, None


class ThreadedWorkers(Workers):
    """One rank of a data axis or of a feature axis."""

    def __init__(self, axis, meeting, rank):
        self.axis, self.meeting, self.rank = axis, meeting, rank
        if axis == "data":
            self.data_rank, self.data_size = rank, meeting.size
        else:
            self.feature_rank, self.feature_size = rank, meeting.size

    def sum_rows(self, values):
        return self.meeting.sum(self.rank, values) if self.axis == "data" else values

    def num_rows(self, local):
        return int(self.sum_rows(torch.tensor(local)))

    def gather_rows(self, values):
        return torch.cat(self.meeting.exchange(self.rank, values)) if self.axis == "data" else values

    def sum_features(self, partial):
        return _SumForward.apply(partial, self.meeting, self.rank) if self.axis == "features" else partial

    def to_features(self, replicated):
        return _SumBackward.apply(replicated, self.meeting, self.rank) if self.axis == "features" else replicated

    def gather_features(self, values):
        return torch.cat(self.meeting.exchange(self.rank, values), dim=-1) if self.axis == "features" else values


def run_ranks(axis, size, function):
    """What `function(rank, workers)` gives on every rank, all running at once."""
    meeting = _Meeting(size)
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(lambda rank: function(rank, ThreadedWorkers(axis, meeting, rank)), range(size)))
