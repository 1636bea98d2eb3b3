"""One pass over a store trains any number of dictionaries from one reader.

Each dictionary is what it would be alone: it has its own weights, optimiser, random numbers and saved state, and sees the same batches.

::

    <output>/<name>/plan.json                        first: what is trained, on which store
    <output>/state/<name>/step-<step>-<digest>...    resumable state, removed at the end
    <output>/<name>/training.jsonl events.jsonl      log rows and resampling events
    <output>/<name>/weights.safetensors config.json  the dictionary
    <output>/<name>/result.json                      last: the dictionary is finished
"""

import contextlib
import functools
import math
import platform
import time
from collections.abc import Callable, Generator
from typing import Any, cast

import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeFloat, PositiveInt, field_validator
from torch import Tensor

from sae.architectures.config import ReluConfig, TopKConfig
from sae.architectures.registry import build_dictionary
from sae.batches.loader import Batches
from sae.checkpoint import delete_states, save_dictionary
from sae.config import Config
from sae.dictionary_run import DictionaryConfig, DictionaryRun, Schedule
from sae.errors import InputError, PlanError
from sae.geometric_median import geometric_median
from sae.resampling import InputSource, ResamplingConfig
from sae.storage import Place
from sae.store.reader import Store

__all__ = ["DictionaryConfig", "TrainingConfig", "train"]

PLAN_KEY = "plan.json"
RESULT_KEY = "result.json"
STATE_DIRECTORY = "state"
MEDIAN_SAMPLE_VECTORS = 16_384


class TrainingConfig(Config):
    """One pass over a store and the dictionaries trained in it."""

    dictionaries: list[DictionaryConfig] = Field(
        [
            DictionaryConfig(name="topk", sae=TopKConfig(d_sae=4096, k=20)),
            DictionaryConfig(name="relu", sae=ReluConfig(d_sae=4096), resampling=ResamplingConfig()),
        ],
        description="what to train, all from the same batches",
    )
    batch_size: PositiveInt = Field(2048, description="vectors a step")
    epochs: PositiveInt = Field(1, description="passes over the store; the paper never repeats a vector")
    seed: int = Field(0, ge=0, description="seed of the order of batches")
    log_every: PositiveInt = Field(20, description="steps a log row")
    checkpoint_seconds: NonNegativeFloat = Field(60.0, description="seconds between saved training states")
    dead_window_vectors: PositiveInt = Field(500_000, description="silent for so many vectors means dead, in the log and for auxiliary losses")

    @field_validator("dictionaries")
    @classmethod
    def _names_differ(cls, dictionaries: list[DictionaryConfig]) -> list[DictionaryConfig]:
        names = [dictionary.name for dictionary in dictionaries]
        if len(set(names)) < len(names) or STATE_DIRECTORY in names:
            raise ValueError(f"each dictionary needs its own name, other than {STATE_DIRECTORY!r}; found {', '.join(names)}")
        return dictionaries


def train(
    store: Store,
    hookpoint: str,
    config: TrainingConfig,
    output: Place,
    progress: Callable[[int, int], None] = lambda done, total: None,
    record: Callable[[str, dict[str, Any]], None] = lambda name, row: None,
    device: str = "cpu",
) -> dict[str, dict[str, Any]]:
    """Train all dictionaries of `config` that `output` does not yet hold; run again after an interruption, it goes on where it was.

    On one CPU with the same number of threads a resumed run ends with the same bits as an undisturbed one.

    Args:
        store: where activations come from.
        hookpoint: which of its hookpoints.
        config: the dictionaries and what they share.
        output: one directory for all of them.
        progress: called with vectors done and vectors in all.
        record: called with the name of a dictionary and each log row or event as it comes.
        device: where the dictionaries live.

    Returns:
        `result.json` of every dictionary by name.

    Raises:
        PlanError: `output` holds a dictionary of that name from another configuration or store.
        InputError: the store holds less than one batch, or only zero vectors.
        DivergenceError: a loss is NaN or infinite.
    """
    return _Pass(store, hookpoint, config, output, device).run(progress, record)


class _Pass:
    """What `train` needs throughout."""

    def __init__(self, store: Store, hookpoint: str, config: TrainingConfig, output: Place, device: str) -> None:
        self.store, self.hookpoint, self.config, self.output, self.device = store, hookpoint, config, output, device
        self.batches = Batches(store, hookpoint, config.batch_size, config.seed, config.epochs)
        self.schedule = Schedule(self.batches.num_batches, config.batch_size, config.log_every, config.dead_window_vectors)
        self.statistics = store.statistics(hookpoint)

    def run(self, progress: Callable[[int, int], None], record: Callable[[str, dict[str, Any]], None]) -> dict[str, dict[str, Any]]:
        for dictionary in self.config.dictionaries:
            self._check_plan(dictionary)
        unfinished = [dictionary for dictionary in self.config.dictionaries if not self.output.exists(f"{dictionary.name}/{RESULT_KEY}")]
        runs = [self._begin(dictionary, record) for dictionary in unfinished]
        if runs:
            self._loop(runs, progress)
            for run in runs:
                self._finish(run)
        return {dictionary.name: self.output.get_json(f"{dictionary.name}/{RESULT_KEY}") for dictionary in self.config.dictionaries}

    def _check_plan(self, dictionary: DictionaryConfig) -> None:
        place = self.output.child(dictionary.name)
        shared = self.config.model_dump(mode="json", include={"batch_size", "epochs", "seed", "log_every", "dead_window_vectors"})
        plan = {**shared, "hookpoint": self.hookpoint, "store": self.store.manifest.digest, "dictionary": dictionary.model_dump(mode="json")}
        if not place.exists(PLAN_KEY):
            place.put_json(PLAN_KEY, plan)
            return
        found, wanted = _flatten(place.get_json(PLAN_KEY)), _flatten(plan)
        differing = sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
        if differing:
            key = differing[0]
            others = f" (and {', '.join(differing[1:])})" if len(differing) > 1 else ""
            raise PlanError(
                f"{place.url} holds a dictionary trained with {key} = {found.get(key)!r}, expected {wanted.get(key)!r}{others}: "
                "choose another output or name, or delete it"
            )

    def _begin(self, config: DictionaryConfig, record: Callable[[str, dict[str, Any]], None]) -> DictionaryRun:
        dictionary = build_dictionary(config.sae, self.store.width(self.hookpoint)).to(self.device)
        mean = torch.tensor(self.statistics.mean, dtype=torch.float32, device=self.device)
        inputs = InputSource(self._read, self.schedule.num_steps, self.schedule.batch_size)
        run = DictionaryRun(config, dictionary, self.schedule, inputs, mean, record)
        if not run.restore(self._state(config.name)):
            scale = self._input_scale()
            dictionary.input_scale.fill_(scale)
            dictionary.initialize(self._median * scale, torch.Generator().manual_seed(config.seed))
        return run

    def _loop(self, runs: list[DictionaryRun], progress: Callable[[int, int], None]) -> None:
        total = self.schedule.num_steps * self.schedule.batch_size
        saved = time.monotonic()
        ahead = cast(Generator[tuple[int, Tensor], None, None], self.batches.iterate(min(run.step for run in runs)))
        with contextlib.closing(ahead) as batches:  # an error here must not leave the reading thread behind
            for step, x in batches:
                vectors = x.to(self.device)
                waiting = [run for run in runs if run.step == step]  # a kill between two saved states leaves one dictionary ahead of the other
                for run in waiting:
                    run.train_on(vectors)
                progress((step + 1) * self.schedule.batch_size, total)
                if time.monotonic() - saved >= self.config.checkpoint_seconds and step + 1 < self.schedule.num_steps:
                    for run in waiting:
                        run.save(self._state(run.config.name))
                        run.put_logs(self.output.child(run.config.name))
                    saved = time.monotonic()

    def _finish(self, run: DictionaryRun) -> None:
        place = self.output.child(run.config.name)
        final = run.rows[-1]
        plan = self.store.plan
        origin = {
            "name": run.config.name,
            "hookpoint": self.hookpoint,
            "subject": plan.subject,
            "subject_digest": plan.subject_digest,
            "store_digest": self.store.manifest.digest,
            "vectors": final["vectors"],
            "dead_fraction": final["dead_fraction"],
        }
        result = {
            **origin,
            "architecture": run.dictionary.architecture,
            "d_in": run.dictionary.d_in,
            "d_sae": run.dictionary.d_sae,
            "steps": run.step,
            "dead_window_vectors": self.config.dead_window_vectors,
            "final": final,
            "wall_seconds": run.seconds,
            "seed": run.config.seed,
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
        }
        run.check_weights()
        run.put_logs(place)
        save_dictionary(place, run.dictionary, origin)
        place.put_json(RESULT_KEY, result)
        delete_states(self._state(run.config.name))

    def _state(self, name: str) -> Place:
        return self.output.child(STATE_DIRECTORY, name)

    def _read(self, number: int) -> Float[Tensor, "batch d_in"]:
        return self.batches.batch(number).to(self.device)

    def _input_scale(self) -> float:
        if not self.statistics.mean_norm > 0:
            raise InputError(f"all activations of the store at {self.hookpoint} are zero: harvest another hookpoint")
        return math.sqrt(self.store.width(self.hookpoint)) / self.statistics.mean_norm

    @functools.cached_property
    def _median(self) -> Float[Tensor, " d_in"]:
        wanted = min(-(-MEDIAN_SAMPLE_VECTORS // self.schedule.batch_size), self.schedule.num_steps)
        numbers = [index * self.schedule.num_steps // wanted for index in range(wanted)]
        return geometric_median(torch.cat([self._read(number) for number in numbers])[:MEDIAN_SAMPLE_VECTORS])


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
