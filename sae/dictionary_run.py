"""One dictionary on its way through training: a step, its log, its saved state. The loop that feeds it is `sae.training`."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from sae.architectures.base import Dictionary, StepContext, TrainingPass
from sae.architectures.config import SAEConfig
from sae.checkpoint import TrainingState, put_json_lines, restore_state, save_state
from sae.config import Config
from sae.dead_features import DeadFeatureTracker
from sae.errors import DivergenceError, WidthError
from sae.optimization import MOMENTS, OptimizerConfig, build_optimizer, learning_rate, set_learning_rate
from sae.resampling import InputSource, ResamplingConfig, resample, seeded_generator
from sae.storage import Place
from sae.training_log import LogWindow

LOG_KEY = "training.jsonl"
EVENTS_KEY = "events.jsonl"


class DictionaryConfig(Config):
    """One dictionary to train."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="its directory below the run's `dictionaries`")
    sae: SAEConfig = Field(description="architecture and size")
    optimizer: OptimizerConfig = Field(OptimizerConfig(), description="Adam and its schedule")
    sparsity_warm_up_fraction: float = Field(0.0, ge=0, le=1, description="fraction of the steps over which an L1 penalty rises from 0")
    resampling: ResamplingConfig | None = Field(None, description="when dead features are resampled; null: never")
    seed: int = Field(0, ge=0, description="seed of initial weights and of resampling")


@dataclass(frozen=True)
class Schedule:
    """What all dictionaries of one pass share.

    Attributes:
        num_steps: steps of the whole run.
        batch_size: vectors a step.
        log_every: steps a log row.
        dead_window_vectors: a feature silent for so many vectors counts as dead, in the log and for the auxiliary loss.
    """

    num_steps: int
    batch_size: int
    log_every: int
    dead_window_vectors: int


class DictionaryRun:
    """A dictionary, its optimiser and everything else that changes from step to step.

    Args:
        config: what is trained.
        dictionary: freshly initialised; weights are replaced by `restore`.
        schedule: what the dictionaries of this pass share.
        inputs: random access to the run's batches, for resampling.
        mean: the mean activation, against which variance is counted.
        record: called with the dictionary's name and each log row or event as it comes.
    """

    def __init__(
        self,
        config: DictionaryConfig,
        dictionary: Dictionary,
        schedule: Schedule,
        inputs: InputSource,
        mean: Float[Tensor, " d_in"],
        record: Callable[[str, dict[str, Any]], None],
    ) -> None:
        self.config, self.dictionary, self.schedule, self.inputs, self.mean, self.record = config, dictionary, schedule, inputs, mean, record
        self.optimizer = build_optimizer(dictionary, config.optimizer)
        self.tracker = DeadFeatureTracker(dictionary.d_sae, dictionary.W_dec.device)
        self.window = LogWindow(torch.zeros_like(self.tracker.silent_vectors))
        self.resampled_ids = torch.zeros(0, dtype=torch.int64, device=dictionary.W_dec.device)
        self.resampled_at = 0
        self.step = 0
        self.seconds = 0.0
        self.rows: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []

    def train_on(self, x: Float[Tensor, "batch d_in"]) -> None:
        """One optimiser step on a batch, and whatever is due after it: resampling, a log row.

        Raises:
            WidthError: the batch has another width than the dictionary.
            DivergenceError: a loss term is NaN or infinite; the last saved state stays as it is.
        """
        if x.shape[1] != self.dictionary.d_in:
            name, d_in = self.config.name, self.dictionary.d_in
            raise WidthError(f"dictionary {name!r} has d_in {d_in}, the store has {x.shape[1]}: train it on a store of its width")
        began = time.perf_counter()
        dead = self.tracker.dead(self.schedule.dead_window_vectors)
        context = StepContext(dead=dead, sparsity_scale=self._sparsity_scale(), fraction=self.step / self.schedule.num_steps)
        result = self.dictionary.training_pass(x, context)
        losses = {term: loss.item() for term, loss in result.losses.items()}
        self._check_finite(losses)
        set_learning_rate(self.optimizer, learning_rate(self.config.optimizer, self.step, self.schedule.num_steps))
        self.optimizer.zero_grad(set_to_none=True)
        result.losses["total"].backward()
        self.dictionary.before_step()
        if self.config.optimizer.max_gradient_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.dictionary.parameters(), self.config.optimizer.max_gradient_norm)
        self.optimizer.step()
        self.dictionary.after_step()
        self.step += 1
        self.tracker.update(result.active, len(x))
        self._measure(x, result, losses, began)
        self._after_step()

    def save(self, place: Place) -> None:
        """Save the state, so that a later process goes on after this very step.

        Raises:
            DivergenceError: the weights are NaN or infinite; nothing is written.
        """
        self.check_weights()
        tensors = {f"weights.{name}": tensor for name, tensor in self.dictionary.state_dict().items()}
        for name, parameter in self.dictionary.named_parameters():
            for part in ("step", *MOMENTS):
                tensors[f"{part}.{name}"] = self.optimizer.state[parameter][part]
        tensors |= {"silent_vectors": self.tracker.silent_vectors, "firings": self.window.firings, "resampled_ids": self.resampled_ids}
        window = {"vectors": self.window.vectors, "sums": self.window.sums}
        values = {"window": window, "resampled_at": self.resampled_at, "seconds": self.seconds, "rows": self.rows, "events": self.events}
        save_state(place, TrainingState(self.step, tensors, values))

    def restore(self, place: Place) -> bool:
        """Take up the newest whole state; False where there is none."""
        state = restore_state(place)
        if state is None:
            return False
        tensors, values = {name: tensor.to(self.mean.device) for name, tensor in state.tensors.items()}, state.values
        self.dictionary.load_state_dict({name: tensors[f"weights.{name}"] for name in self.dictionary.state_dict()})
        for name, parameter in self.dictionary.named_parameters():
            self.optimizer.state[parameter] = {part: tensors[f"{part}.{name}"] for part in ("step", *MOMENTS)}
        self.tracker.silent_vectors, self.resampled_ids = tensors["silent_vectors"], tensors["resampled_ids"]
        self.window = LogWindow(tensors["firings"], **values["window"])
        self.step, self.resampled_at, self.seconds = state.step, values["resampled_at"], values["seconds"]
        self.rows, self.events = values["rows"], values["events"]
        return True

    def put_logs(self, place: Place) -> None:
        """Write the log rows and events so far."""
        put_json_lines(place, LOG_KEY, self.rows)
        put_json_lines(place, EVENTS_KEY, self.events)

    def check_weights(self) -> None:
        """Let no NaN into anything that is written: a finite loss may still have led to infinite weights.

        Raises:
            DivergenceError: a weight is NaN or infinite.
        """
        if not all(torch.isfinite(parameter).all() for parameter in self.dictionary.parameters()):
            raise self._divergence("a weight", math.nan)

    def dead_fraction(self) -> float:
        """Share of features silent for the dead window."""
        return self.tracker.dead(self.schedule.dead_window_vectors).double().mean().item()

    def _sparsity_scale(self) -> float:
        warm_up = self.config.sparsity_warm_up_fraction * self.schedule.num_steps
        return min(1.0, (self.step + 1) / warm_up) if warm_up > 0 else 1.0

    def _check_finite(self, losses: dict[str, float]) -> None:
        for term, loss in sorted(losses.items(), key=lambda item: item[0] == "total"):  # the total names no cause, so it comes last
            if not math.isfinite(loss):
                raise self._divergence(term, loss)

    def _divergence(self, term: str, value: float) -> DivergenceError:
        return DivergenceError(
            f"dictionary {self.config.name!r} diverged at step {self.step}: {term} is {value}. The last checkpoint is as it was; "
            "lower optimizer.learning_rate or set optimizer.max_gradient_norm, and train into another output"
        )

    @torch.no_grad()
    def _measure(self, x: Float[Tensor, "batch d_in"], result: TrainingPass, losses: dict[str, float], began: float) -> None:
        amounts = {f"loss/{term}": loss for term, loss in losses.items()}
        amounts |= {
            "steps": 1.0,
            "squared_error": torch.linalg.vector_norm(x - result.reconstruction).double().square().item(),
            "squared_deviation": torch.linalg.vector_norm(x - self.mean).double().square().item(),
            "nonzero": result.firings.sum().item(),
        }
        elapsed = time.perf_counter() - began
        self.seconds += elapsed
        self.window.add(len(x), result.firings, amounts | {"seconds": elapsed})

    def _after_step(self) -> None:
        resampling = self.config.resampling
        if resampling is not None:
            if len(self.resampled_ids) and self.step == self.resampled_at + resampling.silent_steps(self.schedule.num_steps):
                self._count_revived()
            if self.step in resampling.steps(self.schedule.num_steps):
                self._resample(resampling)
        if self.step % self.schedule.log_every == 0 or self.step == self.schedule.num_steps:
            rate = learning_rate(self.config.optimizer, self.step - 1, self.schedule.num_steps)
            row = {**self._when(), **self.window.row(), "dead_fraction": self.dead_fraction(), "learning_rate": rate, "seconds": self.seconds}
            self.window.clear()
            self.rows.append(row)
            self.record(self.config.name, row)

    def _resample(self, config: ResamplingConfig) -> None:
        dead = self.tracker.dead(config.silent_steps(self.schedule.num_steps) * self.schedule.batch_size)
        generator = seeded_generator(self.config.seed, self.step)
        self.resampled_ids = resample(self.dictionary, self.optimizer, dead, self.inputs, config.num_inputs, generator)
        self.resampled_at = self.step
        self.tracker.revive(self.resampled_ids)
        self._event({"event": "resampled", "dead": int(dead.sum()), "resampled": len(self.resampled_ids)})

    def _count_revived(self) -> None:
        since = (self.step - self.resampled_at) * self.schedule.batch_size
        alive = int((self.tracker.silent_vectors[self.resampled_ids] < since).sum())
        self._event({"event": "after_resampling", "resampled_at_step": self.resampled_at, "resampled": len(self.resampled_ids), "alive": alive})
        self.resampled_ids = self.resampled_ids[:0]

    def _event(self, values: dict[str, Any]) -> None:
        event = {**self._when(), **values}
        self.events.append(event)
        self.record(self.config.name, event)

    def _when(self) -> dict[str, int]:
        return {"step": self.step, "vectors": self.step * self.schedule.batch_size}
