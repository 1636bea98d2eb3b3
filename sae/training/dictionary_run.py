"""One dictionary on its way through training: a step, its log, its saved state. The loop that feeds it is `sae.training`."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sae.architectures.base import Dictionary, StepContext, TrainingPass
from sae.checkpoint import TrainingState, put_json_lines
from sae.errors import WidthError
from sae.parallel.workers import ALONE, Workers
from sae.storage import Place
from sae.training.config import DictionaryConfig
from sae.training.log import FACTOR, WINDOWS, DeadFeatureTracker, LogWindow, check_losses, divergence, diverging, ended_diverged
from sae.training.optimization import WeightAverage, build_optimizer, learning_rate, set_learning_rate
from sae.training.records import EVENTS_KEY, LOG_KEY
from sae.training.resampling import InputSource, ResamplingConfig, resample, seeded_generator
from sae.training.sharding import all_features, clip_gradients, sum_gradients
from sae.training.state import Parts, Progress, state_of, take_up

SMALLEST_DEVIATION = 1e-30  # a batch without variance has no FVU


@dataclass(frozen=True)
class Schedule:
    """Settings that all dictionaries of one pass share.

    Attributes:
        num_steps: steps of the whole run.
        batch_size: vectors a step, over all workers.
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
        dictionary: freshly initialised, and cut to the features of this worker; weights are replaced by `restore`.
        schedule: what the dictionaries of this pass share.
        inputs: random access to the run's batches, for resampling.
        mean: the mean of what is reconstructed, against which variance is counted.
        record: called with the dictionary's name and each log row or event as it comes.
        workers: who else holds rows of each batch, or features of the dictionary.
    """

    def __init__(
        self,
        config: DictionaryConfig,
        dictionary: Dictionary,
        schedule: Schedule,
        inputs: InputSource,
        mean: Float[Tensor, " d_out"],
        record: Callable[[str, dict[str, Any]], None],
        workers: Workers = ALONE,
    ) -> None:
        self.config, self.dictionary, self.schedule, self.inputs, self.mean, self.record = config, dictionary, schedule, inputs, mean, record
        self.workers = workers
        device = dictionary.W_dec.device
        self.optimizer = build_optimizer(dictionary, config.optimizer)
        self.tracker = DeadFeatureTracker(dictionary.d_sae, device)
        self.window = LogWindow(torch.zeros_like(self.tracker.silent_vectors))
        self.average = WeightAverage(dictionary, config.ema_decay) if config.ema_decay is not None else None
        self.progress = Progress(torch.zeros(0, dtype=torch.int64, device=device))

    @property
    def step(self) -> int:
        """Optimiser steps done."""
        return self.progress.step

    def train_on(self, x: Float[Tensor, "batch d_in"], target: Float[Tensor, "batch d_out"] | None = None, read_seconds: float = 0.0) -> None:
        """One optimiser step on this worker's rows of a batch, and whatever is due after it: resampling, a log row.

        Raises:
            WidthError: the batch has another width than the dictionary.
            DivergenceError: a loss term is NaN or infinite, or the reconstruction has long been far worse than none; the last saved state stays.
        """
        if x.shape[1] != self.dictionary.d_in:
            name, d_in = self.config.name, self.dictionary.d_in
            raise WidthError(f"dictionary {name!r} has d_in {d_in}, the store has {x.shape[1]}: train it on a store of its width")
        began, exchanged = time.perf_counter(), self.workers.seconds
        result = self.dictionary.training_pass(x, self._context(target))
        amounts = self._amounts(x if target is None else target, result)
        check_losses(
            self.config.name, self.step, {name.removeprefix("loss/"): amount for name, amount in amounts.items() if name.startswith("loss/")}
        )
        if self.step == 0:
            self.progress.first_fvu = amounts["squared_error"] / max(amounts["squared_deviation"], SMALLEST_DEVIATION)
        set_learning_rate(self.optimizer, learning_rate(self.config.optimizer, self.step, self.schedule.num_steps))
        self.optimizer.zero_grad(set_to_none=True)
        result.losses["total"].backward()
        sum_gradients(self.dictionary, self.workers)
        self.dictionary.before_step()
        if self.config.optimizer.max_gradient_norm is not None:
            clip_gradients(self.dictionary, self.config.optimizer.max_gradient_norm, self.workers)
        self.optimizer.step()
        self.dictionary.after_step()
        if self.average is not None:
            self.average.update()
        self.progress.step += 1
        firings = self.workers.sum_rows(result.firings)
        self.tracker.update(firings > 0, self.schedule.batch_size)
        elapsed, sync = time.perf_counter() - began, self.workers.seconds - exchanged
        self.progress.seconds += elapsed
        self.window.add(self.schedule.batch_size, firings, amounts | {"seconds": elapsed, "read_seconds": read_seconds, "sync_seconds": sync})
        self._after_step()

    def state(self, plan: dict[str, Any]) -> TrainingState:
        """The state from which a later process goes on after this very step; collective.

        Raises:
            DivergenceError: the weights are NaN or infinite.
        """
        self.check_weights()
        return state_of(self._parts(), plan, self.workers)

    def restore(self, state: TrainingState) -> None:
        """Go on from a state."""
        take_up(self._parts(), state, self.workers)

    def put_logs(self, place: Place) -> None:
        """Write the log rows and events so far."""
        put_json_lines(place, LOG_KEY, self.progress.rows)
        put_json_lines(place, EVENTS_KEY, self.progress.events)

    def final_weights(self) -> dict[str, Float[Tensor, "..."]]:
        """All features' weights as they are saved, the average of weights where that is wanted; collective.

        Raises:
            DivergenceError: a weight is NaN or infinite, or the reconstruction ended far worse than none.
        """
        self.check_weights()
        if ended_diverged(self.progress.rows, self.progress.first_fvu):
            found = f"training ended with an FVU of {self.progress.rows[-1]['fvu']:.3g}, more than {FACTOR:g} times that of its first step"
            raise divergence(self.config.name, self.step, found)
        weights = dict(self.dictionary.state_dict())
        if self.average is not None:
            weights |= self.average.weights()
        return {name: all_features(tensor, self.dictionary.feature_axes.get(name), self.workers) for name, tensor in weights.items()}

    def check_weights(self) -> None:
        """Let no NaN into anything that is written: a finite loss may still have led to infinite weights.

        Raises:
            DivergenceError: a weight of any worker is NaN or infinite.
        """
        bad = sum(int(not torch.isfinite(parameter).all()) for parameter in self.dictionary.parameters())
        if int(self.workers.sum_all(torch.tensor(bad))) > 0:
            raise divergence(self.config.name, self.step, "a weight is NaN or infinite")

    def _parts(self) -> Parts:
        return Parts(self.dictionary, self.optimizer, self.tracker, self.window, self.average, self.progress)

    def _context(self, target: Float[Tensor, "batch d_out"] | None) -> StepContext:
        warm_up = self.config.sparsity_warm_up_fraction * self.schedule.num_steps
        return StepContext(
            dead=self.tracker.dead(self.schedule.dead_window_vectors),
            sparsity_scale=min(1.0, (self.step + 1) / warm_up) if warm_up > 0 else 1.0,
            fraction=self.step / self.schedule.num_steps,
            target=target,
            workers=self.workers,
        )

    @torch.no_grad()
    def _amounts(self, wanted: Float[Tensor, "batch d_out"], result: TrainingPass) -> dict[str, float]:
        """Loss terms and sums of one step over the global batch, exchanged at once."""
        amounts = {f"loss/{term}": loss.detach() for term, loss in result.losses.items()}
        amounts |= {
            "squared_error": torch.linalg.vector_norm(torch.addcdiv(wanted, result.decoded, result.scale, value=-1)).double().square(),
            "squared_deviation": torch.linalg.vector_norm(wanted - self.mean).double().square(),
            "nonzero": self.workers.sum_features(result.firings.sum()),
        }
        summed = self.workers.sum_rows(torch.stack([amount.double() for amount in amounts.values()])).tolist()
        return {"steps": 1.0, **dict(zip(amounts, summed, strict=True))}

    def _after_step(self) -> None:
        resampling, progress = self.config.resampling, self.progress
        if resampling is not None:
            if len(progress.resampled_ids) and self.step == progress.resampled_at + resampling.silent_steps(self.schedule.num_steps):
                self._count_revived()
            if self.step in resampling.steps(self.schedule.num_steps):
                self._resample(resampling)
        if self.step % self.schedule.log_every == 0 or self.step == self.schedule.num_steps:
            self._log()

    def _log(self) -> None:
        rate = learning_rate(self.config.optimizer, self.step - 1, self.schedule.num_steps)
        row = {
            **self._when(),
            **self.window.row(self.workers.gather_features(self.window.firings)),
            "dead_fraction": self._dead(self.schedule.dead_window_vectors).double().mean().item(),
            "learning_rate": rate,
            "seconds": self.progress.seconds,
        }
        self.window.clear()
        self.progress.rows.append(row)
        if self.workers.leader:
            self.record(self.config.name, row)
        if diverging(self.progress.rows, self.progress.first_fvu):
            found = f"its FVU has been above {FACTOR:g} times that of its first step for {WINDOWS} log rows, now {row['fvu']:.3g}"
            raise divergence(self.config.name, self.step, found)

    def _dead(self, window_vectors: int) -> Tensor:
        return self.workers.gather_features(self.tracker.dead(window_vectors))

    def _resample(self, config: ResamplingConfig) -> None:
        progress, generator = self.progress, seeded_generator(self.config.seed, self.step)
        dead = self.tracker.dead(config.silent_steps(self.schedule.num_steps) * self.schedule.batch_size)
        numbers = self.inputs.choose(config.num_inputs, self.step, generator)
        progress.resampled_ids = resample(self.dictionary, self.optimizer, dead, self.inputs, numbers, generator, self.workers)
        progress.resampled_at = self.step
        own = dead.nonzero().flatten()
        self.tracker.revive(own)
        if self.average is not None:
            self.average.forget(own)
        self._event({"event": "resampled", "dead": len(progress.resampled_ids), "resampled": len(progress.resampled_ids)})

    def _count_revived(self) -> None:
        progress = self.progress
        since = (self.step - progress.resampled_at) * self.schedule.batch_size
        silent = self.workers.gather_features(self.tracker.silent_vectors)
        alive = int((silent[progress.resampled_ids] < since).sum())
        self._event(
            {"event": "after_resampling", "resampled_at_step": progress.resampled_at, "resampled": len(progress.resampled_ids), "alive": alive}
        )
        progress.resampled_ids = progress.resampled_ids[:0]

    def _event(self, values: dict[str, Any]) -> None:
        event = {**self._when(), **values}
        self.progress.events.append(event)
        if self.workers.leader:
            self.record(self.config.name, event)

    def _when(self) -> dict[str, int]:
        return {"step": self.step, "vectors": self.step * self.schedule.batch_size}
