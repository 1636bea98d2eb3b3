"""One pass over a store with everything it leads to: plans, searches, restored states, the loop over batches, results."""

import functools
import re
import time
from collections.abc import Callable
from typing import Any

import torch

from sae.architectures.registry import build_dictionary
from sae.batches.loader import Batches
from sae.checkpoint import TrainingState, delete_states, read_weights, restore_state, save_state
from sae.dictionary_record import describe_dictionary
from sae.errors import ConfigError, DivergenceError, HookpointError, StoppedError
from sae.parallel.workers import Workers
from sae.records import check_name
from sae.storage import Place
from sae.store import Store
from sae.training.config import SEARCH_DIRECTORY, STATE_DIRECTORY, DictionaryConfig, TargetL0Config, TrainingConfig
from sae.training.dictionary_run import DictionaryRun, Schedule
from sae.training.inputs import Batch, TrainingInputs
from sae.training.plan import compare_plans
from sae.training.records import RESULT_KEY, FoundCoefficient, read_log, read_result
from sae.training.resampling import InputSource
from sae.training.result import write_dictionary
from sae.training.sharding import shard_dictionary
from sae.training.state import plan_of
from sae.training.target_l0 import found_coefficient, search_coefficient, with_coefficient

PLAN_KEY = "plan.json"
CONTINUE, SAVE, STOP = 0, 1, 2  # what the leader wants after a batch
_PILOT_KEY = re.compile(r"round-[0-9]+/[^/]+/((plan|config|result)\.json|weights\.safetensors|(training|events)\.jsonl)")

ProgressReport = Callable[[int, int], None]
Record = Callable[[str, dict[str, Any]], None]


class StorePass:
    """All dictionaries of a configuration, from one reader.

    Args:
        store: where activations come from.
        hookpoint: which of its hookpoints is encoded.
        config: the dictionaries and what they share.
        output: one directory for all of them.
        workers: who shares the work.
        max_steps: use only so many of the first batches, as a search's pilot runs do.
        should_stop: asked after each batch, on the leader.
    """

    def __init__(
        self,
        store: Store,
        hookpoint: str,
        config: TrainingConfig,
        output: Place,
        workers: Workers,
        max_steps: int | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.should_stop = should_stop
        self.store, self.hookpoint, self.config, self.output, self.workers = store, hookpoint, config, output, workers
        batches = {name: self._batches(name) for name in [hookpoint, *self._targets()]}
        num_steps = min(batches[hookpoint].num_batches, max_steps or batches[hookpoint].num_batches)
        self.inputs = TrainingInputs(batches, num_steps, workers)
        self.schedule = Schedule(num_steps, config.batch_size, config.log_every, config.dead_window_vectors)
        self.plans: dict[str, dict[str, Any]] = {}
        self.failures: dict[str, DivergenceError] = {}

    def run(self, progress: ProgressReport, record: Record) -> dict[str, dict[str, Any]]:
        """Train what is unfinished; returns every dictionary's result. See `sae.training.engine.train`."""
        settled = self._settled()
        unfinished = [dictionary for dictionary in settled if not self.output.exists(f"{dictionary.name}/{RESULT_KEY}")]
        for dictionary in settled:
            if dictionary not in unfinished:
                self._prove(dictionary.name)  # before an hour is spent on the others
        self.workers.agree(0)  # nobody writes a result before all have looked which are there
        try:
            runs = [self._begin(dictionary, record) for dictionary in unfinished]
            if runs:
                self._loop(runs, progress)
        except torch.OutOfMemoryError as error:
            raise self._out_of_memory(len(unfinished)) from error
        for run in runs:
            self._attempt(run, self._finish)
        self.workers.agree(0)
        if self.failures:
            raise next(iter(self.failures.values()))
        return {dictionary.name: self._result(dictionary.name) for dictionary in self.config.dictionaries}

    def _result(self, name: str) -> dict[str, Any]:
        """The result of a finished dictionary, proved; its plan was compared."""
        place = self.output.child(name)
        result = read_result(place)
        check_name(result.name, name, place.path(RESULT_KEY))
        return result.model_dump(mode="json")

    def _prove(self, name: str) -> None:
        self._result(name)
        if self.workers.leader:
            place = self.output.child(name)
            read_weights(place, describe_dictionary(place).weights)

    def _targets(self) -> list[str]:
        wanted = {dictionary.target_hookpoint: dictionary.name for dictionary in self.config.dictionaries if dictionary.target_hookpoint}
        for target, name in wanted.items():
            if target not in self.store.plan.hookpoints:
                there = ", ".join(sorted(self.store.plan.hookpoints))
                raise HookpointError(
                    f"dictionary {name!r} is to reconstruct {target!r}, which {self.store.place.url} has not (it has {there}): "
                    "add it to harvest.hookpoints, or choose another target_hookpoint"
                )
        return [target for target in wanted if target != self.hookpoint]

    def _batches(self, hookpoint: str) -> Batches:
        on_cpu = torch.device(self.workers.device).type == "cpu"
        dtype = torch.float32 if on_cpu else getattr(torch, self.store.plan.dtype)  # a GPU converts faster than anyone, and less crosses to it
        return Batches(self.store, hookpoint, self.config.batch_size, self.config.seed, self.config.epochs, dtype)

    def _settled(self) -> list[DictionaryConfig]:
        """The dictionaries with nothing left to search, each held to its plan."""
        settled = []
        for dictionary in self.config.dictionaries:
            place = self.output.child(dictionary.name)
            found = dictionary
            if dictionary.target_l0 is not None:
                found = with_coefficient(dictionary, self._search(dictionary, dictionary.target_l0))
            self.plans[dictionary.name] = self._plan(found)
            if self.workers.leader and not place.exists(PLAN_KEY):
                place.put_sealed(PLAN_KEY, self.plans[dictionary.name])
            settled.append(found)
        self.workers.agree(0)
        for name, plan in self.plans.items():
            place = self.output.child(name)
            compare_plans(place.get_sealed(PLAN_KEY), plan, place.url)
        return settled

    def _plan(self, dictionary: DictionaryConfig) -> dict[str, Any]:
        shared = self.config.model_dump(mode="json", include={"batch_size", "epochs", "seed", "log_every", "dead_window_vectors"})
        return {**shared, "hookpoint": self.hookpoint, "store": self.store.plan.digest, "dictionary": dictionary.model_dump(mode="json")}

    def _search(self, dictionary: DictionaryConfig, target: TargetL0Config) -> float:
        def pilots(dictionaries: list[DictionaryConfig], directory: str, num_steps: int) -> dict[str, list[dict[str, Any]]]:
            config = self.config.model_copy(update={"dictionaries": dictionaries})
            output = self.output.child(SEARCH_DIRECTORY, dictionary.name, directory)
            search = StorePass(self.store, self.hookpoint, config, output, self.workers, num_steps, self.should_stop)
            search.run(lambda done, total: None, lambda name, row: None)
            return {pilot.name: read_log(output.child(pilot.name)) for pilot in dictionaries}

        request = self._plan(dictionary)
        coefficient = search_coefficient(
            self.output.child(dictionary.name), request, dictionary, target, self.schedule.num_steps, pilots, self.workers
        )
        if self.workers.leader:
            delete_pilots(self.output.child(SEARCH_DIRECTORY, dictionary.name))
        return coefficient

    def _begin(self, config: DictionaryConfig, record: Record) -> DictionaryRun:
        source, target = self.hookpoint, config.target_hookpoint
        dictionary = build_dictionary(config.sae, self.store.width(source), None if target is None else self.store.width(target))
        dictionary.encode_dtype = getattr(torch, config.encode_dtype)
        state = self._restored(config.name)
        if state is None:
            wanted = self.inputs.first(target or source)
            dictionary.input_scale.fill_(self.inputs.first(source).scale)
            if dictionary.output_scale is not None:
                dictionary.output_scale.fill_(wanted.scale)
            dictionary.initialize(wanted.median.cpu() * wanted.scale, torch.Generator().manual_seed(config.seed))
        shard_dictionary(dictionary, self.workers)
        mean = self.inputs.first(target or source).mean

        def read(number: int) -> tuple[torch.Tensor, torch.Tensor | None]:
            return self.inputs.read(source, number), None if target is None else self.inputs.read(target, number)

        source_of_inputs = InputSource(read, self.schedule.batch_size)
        run = DictionaryRun(config, dictionary.to(self.workers.device), self.schedule, source_of_inputs, mean, record, self.workers)
        if state is not None:
            compare_plans(plan_of(state), self.plans[config.name], self._state(config.name).url)
            run.restore(state)
        return run

    def _restored(self, name: str) -> TrainingState | None:
        """The newest whole state: the leader chooses, the others take the same."""
        state = restore_state(self._state(name)) if self.workers.leader else None
        step = self.workers.agree(-1 if state is None else state.step)
        return restore_state(self._state(name), step) if state is None and step >= 0 else state

    def _loop(self, runs: list[DictionaryRun], progress: ProgressReport) -> None:
        """Feed the dictionaries batch by batch; if training is stopped, save all of them first."""
        try:
            self._feed_batches(runs, progress)
        except StoppedError:
            for run in runs:
                if run.step > 0:  # else there is nothing yet to save
                    self._attempt(run, self._save)
            raise

    def _feed_batches(self, runs: list[DictionaryRun], progress: ProgressReport) -> None:
        total, saved = self.schedule.num_steps * self.schedule.batch_size, time.monotonic()
        with self.inputs.ahead(min(run.step for run in runs)) as batches:
            for batch in batches:
                waiting = [run for run in runs if run.step == batch.number]  # a kill between two saved states leaves one dictionary ahead
                for run in waiting:
                    self._attempt(run, functools.partial(self._feed, batch=batch))
                if len(self.failures) == len(runs):
                    break
                if self.workers.leader:
                    progress((batch.number + 1) * self.schedule.batch_size, total)
                if batch.number + 1 == self.schedule.num_steps:
                    break  # the results follow at once
                due = time.monotonic() - saved >= self.config.checkpoint_seconds
                wish = self.workers.agree(STOP if self.should_stop() else SAVE if due else CONTINUE)
                if wish == STOP:
                    raise StoppedError(f"training was stopped after step {batch.number + 1} of {self.schedule.num_steps}, its state is saved")
                if wish == SAVE:
                    for run in waiting:
                        self._attempt(run, self._save)
                    saved = time.monotonic()

    def _attempt(self, run: DictionaryRun, action: Callable[[DictionaryRun], None]) -> None:
        """Do something with a dictionary unless it has diverged. One that does is left behind, on every worker alike, and the others go on."""
        if run.config.name not in self.failures:
            try:
                action(run)
            except DivergenceError as error:
                self.failures[run.config.name] = error

    def _feed(self, run: DictionaryRun, batch: Batch) -> None:
        target = run.config.target_hookpoint
        run.train_on(batch.vectors[self.hookpoint], None if target is None else batch.vectors[target], batch.read_seconds)

    def _save(self, run: DictionaryRun) -> None:
        state = run.state(self.plans[run.config.name])
        if self.workers.leader:
            save_state(self._state(run.config.name), state, self.config.checkpoints_kept)
            run.put_logs(self.output.child(run.config.name))

    def _finish(self, run: DictionaryRun) -> None:
        name, weights = run.config.name, run.final_weights()
        if not self.workers.leader:
            return
        place = self.output.child(name)
        run.put_logs(place)
        write_dictionary(place, run, weights, self.store, self.inputs, self._found(place))
        delete_states(self._state(name))

    def _found(self, place: Place) -> FoundCoefficient | None:
        found = found_coefficient(place)
        return None if found is None else FoundCoefficient(**{name: getattr(found, name) for name in FoundCoefficient.model_fields})

    def _state(self, name: str) -> Place:
        return self.output.child(STATE_DIRECTORY, name)

    def _out_of_memory(self, num_dictionaries: int) -> ConfigError:
        widths = ", ".join(f"{dictionary.name} {dictionary.sae.d_sae:,}" for dictionary in self.config.dictionaries)
        return ConfigError(
            f"the GPU's memory is too small for batches of {self.config.batch_size:,} vectors and {num_dictionaries} dictionaries at once "
            f"(d_sae: {widths}): lower training.batch_size, train fewer at once, lower sae.d_sae, or set trainer.parallel=features on more GPUs"
        )


def delete_pilots(place: Place) -> None:
    """Remove the finished pilot runs of a search. Other files of the place are left alone."""
    for key in filter(_PILOT_KEY.fullmatch, place.list()):
        place.delete(key)
