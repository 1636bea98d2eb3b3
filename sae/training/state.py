"""A dictionary on its way as a training state, whole whoever holds its parts, and back again."""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int, Shaped
from pydantic import NonNegativeFloat, NonNegativeInt
from torch import Tensor

from sae.architectures.base import Dictionary
from sae.checkpoint import TrainingState
from sae.errors import InputError
from sae.parallel.workers import Workers
from sae.records import Record, as_record
from sae.tensor_files import TensorShape, first_difference, shapes_of
from sae.training.log import DeadFeatureTracker, LogWindow
from sae.training.optimization import MOMENTS, WeightAverage
from sae.training.records import Event, LogRow
from sae.training.sharding import all_features, own_features


@dataclass
class Progress:
    """Progress of a dictionary and its log: everything but its tensors.

    Attributes:
        step: optimiser steps done.
        seconds: wall time of these steps.
        resampled_ids: features changed by the last resampling, until their fate is counted; numbered over all workers.
        resampled_at: after which step that was.
        first_fvu: FVU of the first step, before any weight was changed.
        rows: log rows so far.
        events: events so far.
    """

    resampled_ids: Int[Tensor, " features"]
    step: int = 0
    seconds: float = 0.0
    resampled_at: int = 0
    first_fvu: float = 0.0
    rows: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Parts:
    """Parts of a training that change from step to step. Tensors that have features hold those of this worker alone."""

    dictionary: Dictionary
    optimizer: torch.optim.Adam
    tracker: DeadFeatureTracker
    window: LogWindow
    average: WeightAverage | None
    progress: Progress

    def tensors(self) -> dict[str, tuple[Shaped[Tensor, "..."], int | None]]:
        """Every tensor by its key in a state, with the axis along which its features lie."""
        axes = self.dictionary.feature_axes
        held: dict[str, tuple[Tensor, int | None]] = {
            f"weights.{name}": (tensor, axes.get(name)) for name, tensor in self.dictionary.state_dict().items()
        }
        for name, parameter in self.dictionary.named_parameters():
            held[f"step.{name}"] = (self.optimizer.state[parameter]["step"], None)
            for moment in MOMENTS:
                held[f"{moment}.{name}"] = (self.optimizer.state[parameter][moment], axes.get(name))
        if self.average is not None:
            held |= {f"average.{name}": (summed, axes.get(name)) for name, summed in self.average.sums.items()}
        return held | {
            "silent_vectors": (self.tracker.silent_vectors, 0),
            "firings": (self.window.firings, 0),
            "resampled_ids": (self.progress.resampled_ids, None),
        }


def state_of(parts: Parts, plan: dict[str, Any], workers: Workers) -> TrainingState:
    """The state to save; collective, and the same on every worker."""
    tensors = {key: all_features(tensor, axis, workers) for key, (tensor, axis) in parts.tensors().items()}
    progress = parts.progress
    values = {
        "plan": plan,
        "window": {"vectors": parts.window.vectors, "sums": parts.window.sums},
        "resampled_at": progress.resampled_at,
        "first_fvu": progress.first_fvu,
        "seconds": progress.seconds,
        "rows": progress.rows,
        "events": progress.events,
    }
    return TrainingState(progress.step, tensors, values)


class WindowValues(Record):
    """Values measured since the last log row."""

    vectors: NonNegativeInt
    sums: dict[str, float]


class StateValues(Record):
    """The values of a training state that are no tensors."""

    plan: dict[str, Any]
    window: WindowValues
    resampled_at: NonNegativeInt
    first_fvu: NonNegativeFloat
    seconds: NonNegativeFloat
    rows: list[LogRow]
    events: list[Event]


def plan_of(state: TrainingState) -> dict[str, Any]:
    """The plan that a state was made by; all of its values are checked.

    Raises:
        InputError: a value is missing, unknown or of a wrong type.
    """
    return as_record(StateValues, state.values, state.where).plan


def check_tensors(parts: Parts, state: TrainingState, workers: Workers) -> None:
    """Refuse a state whose tensors are not those of this training.

    Raises:
        InputError: a tensor is missing, unknown, or of another type or shape.
    """
    expected = {key: _whole_shape(tensor, axis, workers) for key, (tensor, axis) in parts.tensors().items()}
    ids = state.tensors.get("resampled_ids")
    if ids is not None and ids.ndim == 1:
        expected["resampled_ids"] = TensorShape(expected["resampled_ids"].dtype, tuple(ids.shape))
    if different := first_difference(shapes_of(state.tensors), expected):
        raise InputError(f"{state.where} is not a state of this training: {different}. Delete it: training resumes from the state before it")


def _whole_shape(tensor: Shaped[Tensor, "..."], axis: int | None, workers: Workers) -> TensorShape:
    shape = list(tensor.shape)
    if axis is not None:
        shape[axis] *= workers.feature_size
    return TensorShape(tensor.dtype, tuple(shape))


@torch.no_grad()
def take_up(parts: Parts, state: TrainingState, workers: Workers) -> None:
    """Resume from a state, with this worker's share of it, whatever number of workers saved it.

    Raises:
        InputError: a tensor is missing, unknown, or of another type or shape.
    """
    check_tensors(parts, state, workers)
    progress, values = parts.progress, state.values
    ids = state.tensors["resampled_ids"]
    progress.resampled_ids = ids.to(progress.resampled_ids.device)
    for key, (tensor, axis) in parts.tensors().items():
        if key != "resampled_ids":
            tensor.copy_(own_features(state.tensors[key], axis, workers))
    parts.window.vectors, parts.window.sums = values["window"]["vectors"], values["window"]["sums"]
    progress.step, progress.resampled_at, progress.seconds = state.step, values["resampled_at"], values["seconds"]
    progress.rows, progress.events, progress.first_fvu = values["rows"], values["events"], values["first_fvu"]
    if parts.average is not None:
        parts.average.steps = state.step
