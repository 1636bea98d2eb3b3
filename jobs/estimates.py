"""Estimates before a run begins: what its configuration would take at least, against what the machine has.

All estimates are lower bounds by arithmetic, so that nothing is refused that could run. They hold for a local cluster. Of a cluster somewhere
else only the workers' own memory is compared, with a bound that no machine exceeds.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from jobs.config import RunConfig
from sae.architectures.registry import architecture
from sae.errors import ConfigError
from sae.execution import PoolOptions, QueueOptions
from sae.training.config import DictionaryConfig

FLOAT = 4
COPIES = 4  # weights, gradients and two moments of Adam
VALUE_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}
WORKER_BYTES = 300 * 2**20  # a process with torch; the model comes to it
LARGEST_MACHINE_BYTES = 24 * 2**40
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True)
class Machine:
    """Resources of a machine for a run.

    Attributes:
        memory_bytes: of the machine, or of the container this process is in.
        cpus: that Ray is given.
        gpus: of the machine.
        is_local: whether the run starts its own cluster on it.
    """

    memory_bytes: int
    cpus: float
    gpus: int
    is_local: bool


@dataclass(frozen=True)
class Widths:
    """Sizes of the subject model, as far as they are known before its weights are loaded.

    Attributes:
        d_in: least width of the activations that dictionaries are trained on.
        d_vocab: rows of the embedding.
        harvested: sum of the least widths of all harvested hookpoints.
    """

    d_in: int
    d_vocab: int
    harvested: int


def this_machine(config: RunConfig) -> Machine:
    """Measure this machine's resources."""
    memory = psutil.virtual_memory().total
    for path in CGROUP_LIMITS:
        try:
            memory = min(memory, int(Path(path).read_text(encoding="ascii")))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    is_local = not (config.cluster.address or os.environ.get("RAY_ADDRESS"))
    return Machine(memory, config.cluster.num_cpus or os.cpu_count() or 1, _gpus() if is_local else 0, is_local)


def check_estimates(config: RunConfig, stages: Sequence[str], machine: Machine, widths: Widths) -> None:
    """Refuse what cannot fit.

    Raises:
        ConfigError: a stage needs more memory than there is, or workers that no node can hold; with the number, the limit and the key.
    """
    limit = machine.memory_bytes if machine.is_local else LARGEST_MACHINE_BYTES
    where = "this machine has" if machine.is_local else "no machine has more than"
    for key, needed, what in _needs(config, stages, machine, widths):
        if needed > limit:
            raise ConfigError(f"{key}: {what} need at least {gib(needed)} of memory, and {where} {gib(limit)}. Lower {key}")
    if machine.is_local:
        for key, wanted, what, has in _placements(config, stages, machine):
            if wanted > has:
                raise ConfigError(f"{key}: {wanted:g} {what}, and this machine has {has:g}. Lower {key}, or use a cluster (cluster.address)")
        for key, labels in _labels(config, stages):
            if labels:
                raise ConfigError(
                    f"{key}: nodes of a local cluster have no labels, so no worker would ever start. Remove {key}, or set cluster.address"
                )


def describe_extent(config: RunConfig, stages: Sequence[str]) -> dict[str, str | int]:
    """Describe the extent of a run, as fields of a log line: the numbers that bound its duration."""
    training, fields = config.training, dict[str, str | int]()
    if config.corpus.train_tokens is not None:
        fields["train_tokens"] = config.corpus.train_tokens
    if "train" in stages:
        fields["dictionaries"] = len(training.dictionaries)
        fields["epochs"] = training.epochs
        if config.corpus.train_tokens is not None:
            rows = _rows(config, config.corpus.train_tokens // config.corpus.context_length)
            fields["steps_at_most"] = training.epochs * -(-rows // training.batch_size)
        searched = [each.target_l0 for each in training.dictionaries if each.target_l0 is not None]
        if searched:
            fields["pilot_runs_at_most"] = sum(each.pilots * each.max_rounds for each in searched)
    return fields


def gib(count: float) -> str:
    """Bytes for people."""
    return f"{count / 2**40:,.1f} TiB" if count >= 2**40 else f"{count / 2**30:,.1f} GiB"


Need = tuple[str, float, str]
"""Key, bytes, and what needs them."""


def _needs(config: RunConfig, stages: Sequence[str], machine: Machine, widths: Widths) -> Iterator[Need]:
    if machine.is_local:
        yield "cluster.object_store_bytes", config.cluster.object_store_bytes, "Ray's objects"
    if "pretrain" in stages:
        yield from _pretraining_needs(config)
    if "harvest" in stages:
        yield from _harvest_needs(config, machine, widths)
    if "train" in stages:
        yield from _training_needs(config, widths)
    if "evaluate" in stages:
        evaluation = config.evaluation
        logits = evaluation.sequences_per_forward * config.corpus.context_length * widths.d_vocab * FLOAT
        yield "evaluation.sequences_per_forward", 2 * logits, "two batches of logits"
        yield "evaluation.num_workers", _workers(evaluation.num_workers, evaluation.pool, machine) * WORKER_BYTES, "evaluation workers"
    if "interpret" in stages:
        yield from _interpretation_needs(config, machine, widths)


def _pretraining_needs(config: RunConfig) -> Iterator[Need]:
    model, asked = config.pretraining.transformer, config.pretraining
    block = 4 * model.d_model**2 + 2 * model.d_model * model.d_mlp
    parameters = model.vocab_size * model.d_model + asked.corpus.context_length * model.d_model + model.num_layers * block
    yield "pretraining.transformer", parameters * FLOAT * COPIES, f"{parameters:,} parameters with gradients and Adam's moments"
    logits = asked.sequences_per_batch * asked.corpus.context_length * model.vocab_size * FLOAT
    yield "pretraining.sequences_per_batch", 2 * logits, "a batch of logits and its gradient"


def _harvest_needs(config: RunConfig, machine: Machine, widths: Widths) -> Iterator[Need]:
    harvest, length = config.harvest, config.corpus.context_length
    workers = _workers(harvest.num_workers, harvest.pool, machine)
    yield "harvest.num_workers", workers * WORKER_BYTES, "harvest workers"
    sequences = min(harvest.sequences_per_shard, _sequences(config))
    forward = min(harvest.sequences_per_forward, sequences) * length * widths.harvested * FLOAT
    yield "harvest.sequences_per_forward", forward * workers, "activations of one pass of the model"
    shard = _rows(config, sequences) * widths.harvested * VALUE_BYTES[harvest.dtype]
    yield "harvest.sequences_per_shard", shard * workers, f"the shards that {workers} workers hold"


def _training_needs(config: RunConfig, widths: Widths) -> Iterator[Need]:
    training, total = config.training, 0
    for dictionary in training.dictionaries:
        parameters = parameter_count(dictionary, widths.d_in)
        pilots = dictionary.target_l0.pilots if dictionary.target_l0 else 1
        name = f"training.dictionaries.{dictionary.name}"
        yield f"{name}.sae.d_sae", parameters * FLOAT * COPIES, f"{parameters:,} weights with gradients and Adam's moments"
        if dictionary.target_l0:
            yield f"{name}.target_l0.pilots", parameters * FLOAT * COPIES * pilots, f"{pilots} pilot runs of {parameters:,} weights"
        if dictionary.resampling:
            yield f"{name}.resampling.num_inputs", dictionary.resampling.num_inputs * widths.d_in * FLOAT, "the inputs to resample from"
        total += parameters
    yield "training.dictionaries", total * FLOAT * COPIES, f"{len(training.dictionaries)} dictionaries with gradients and Adam's moments"
    yield "training.batch_size", 3 * training.batch_size * widths.d_in * FLOAT, "a batch, its reconstruction and their gradient"


def _interpretation_needs(config: RunConfig, machine: Machine, widths: Widths) -> Iterator[Need]:
    asked = config.interpretation
    yield "interpretation.num_workers", _workers(asked.num_workers, asked.pool, machine) * WORKER_BYTES, "interpretation workers"
    controls = asked.controls
    if {"pca", "ica", "nmf"} & set(controls.kinds):
        fitted = min(controls.fit_vectors, _rows(config, _sequences(config)))
        yield "interpretation.controls.fit_vectors", fitted * widths.d_in * FLOAT, "the vectors that controls are fitted on"
    if controls.kinds:
        yield "interpretation.controls.num_features", controls.num_features * widths.d_in * FLOAT, "the directions of controls"


def parameter_count(dictionary: DictionaryConfig, d_in: int) -> int:
    """Weights of a dictionary."""
    matrices = sum(name in ("W_enc", "W_dec") for name in architecture(dictionary.sae.architecture).feature_axes) or 1
    return dictionary.sae.d_sae * (matrices * d_in + 1)


def _placements(config: RunConfig, stages: Sequence[str], machine: Machine) -> Iterator[tuple[str, float, str, float]]:
    for stage, section, pool in _pools(config):
        if stage in stages:
            yield f"{section}.num_cpus", pool.num_cpus, "CPUs for each worker", machine.cpus
            yield f"{section}.num_gpus", pool.num_gpus, "GPUs for each worker", machine.gpus
    if "train" in stages:
        trainer = config.trainer
        workers = trainer.num_workers if trainer.parallel != "dictionaries" else min(trainer.num_workers, len(config.training.dictionaries))
        yield "trainer.num_workers", workers * (trainer.num_cpus or 1.0), f"CPUs for {workers} training workers", machine.cpus
        yield "trainer.num_gpus", workers * trainer.num_gpus, f"GPUs for {workers} training workers", machine.gpus


def _labels(config: RunConfig, stages: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    for stage, section, pool in _pools(config):
        if stage in stages:
            yield f"{section}.labels", pool.labels
    if "train" in stages:
        yield "trainer.labels", config.trainer.labels


def _pools(config: RunConfig) -> Iterator[tuple[str, str, PoolOptions | QueueOptions]]:
    yield "harvest", "harvest.pool", config.harvest.pool
    yield "evaluate", "evaluation.pool", config.evaluation.pool
    yield "concepts", "evaluation.pool", config.evaluation.pool
    yield "interpret", "interpretation.pool", config.interpretation.pool


def _workers(wanted: int, pool: PoolOptions, machine: Machine) -> int:
    """Workers that run at the same time: on a local cluster no more than its CPUs allow; of a cluster, those of one machine."""
    if not machine.is_local:
        return 1
    return min(wanted, max(1, int(machine.cpus / pool.num_cpus))) if pool.num_cpus else wanted


def _sequences(config: RunConfig) -> int:
    """Sequences to harvest, at most."""
    text = config.corpus.train_tokens
    bounds = [config.harvest.num_sequences, None if text is None else -(-text // config.corpus.context_length)]
    return min((bound for bound in bounds if bound is not None), default=1)  # of text without a bound nothing is known


def _rows(config: RunConfig, sequences: int) -> int:
    longest = config.corpus.context_length - 1
    return sequences * min(config.harvest.tokens_per_sequence or longest, longest)


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()
