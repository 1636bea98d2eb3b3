"""Rates of a run's stages, measured on this machine for some seconds (`jobs.bench_rates`: taken from the lines of `make bench`).

Measured with as many processes at once as a stage has workers here, each with a worker's threads: two busy cores are slower than twice one.
"""

import math
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from jobs.config import RunConfig
from sae.architectures.base import Dictionary
from sae.architectures.registry import build_dictionary
from sae.devices import device
from sae.errors import FailureError
from sae.evaluation.passes import evaluate_sequences
from sae.interpretation.sources.controls import random_directions
from sae.interpretation.sources.sources import NeuronSource
from sae.storage import Place
from sae.store import StorePlan, write_shard
from sae.subject.model import Subject
from sae.training.config import DictionaryConfig
from sae.training.optimization import build_optimizer
from services.cluster.capacity import Rates

PHASE_SECONDS = 2.0
MOST_SECONDS = 150.0  # of all measuring
LOOK_SECONDS = 0.2
FIRST_STEPS = 40  # of a ReLU dictionary, as many as its beginning costs more, while up to half of its features fire
TYPICAL_L0 = 32
TOKENS = 8192  # of a shard that is made to be timed
# Of the quickstart, each on one core of an AMD EPYC (AVX-512): what takes longer than one would want to measure beforehand.
EXPLAIN_FEATURES_PER_SECOND = 60.0
RAY_WORKER_SECONDS = 4.0  # a worker process of Ray and its imports, beside its model
CLUSTER_SECONDS = 4.0  # a local cluster of Ray
REPORT_SECONDS = 5.0
RAY_TRAIN_SECONDS = 10.0  # one fit, with its checks and its end


def measured_rates(config: RunConfig, widths: dict[str, int], tell: Callable[[str], None] = lambda what: None) -> Rates:
    """Run each expensive step for a moment, in processes beside each other.

    Args:
        config: of the run.
        widths: of its hookpoints.
        tell: called with each step, before it is measured.

    Raises:
        FailureError: a process ended without an answer, or measuring took more than `MOST_SECONDS`.
    """
    cores = os.cpu_count() or 1
    harvesters = _here(config.harvest.num_workers, config.harvest.pool.num_cpus, cores)
    trainers = min(config.trainer.num_workers, len(config.training.dictionaries), cores)
    train_threads = max(1, math.ceil(config.trainer.num_cpus) or cores // trainers)
    counts = {"harvest": harvesters, "train": trainers}
    processes = max(counts.values())
    context = multiprocessing.get_context("spawn")
    barrier, answers, steps = context.Barrier(processes), context.SimpleQueue(), context.SimpleQueue()
    workers = [
        context.Process(target=_measure, args=(_Duty(rank, counts, train_threads, config, widths), barrier, answers, steps), daemon=True)
        for rank in range(processes)
    ]
    for worker in workers:
        worker.start()
    _wait(workers, steps, tell)
    found = [answers.get() for _ in workers]
    slowest = {name: min(each[name] for each in found if name in each) for name in ("tokenise", "harvest", "evaluate", "read", "train")}
    return Rates(
        **slowest,
        explain=EXPLAIN_FEATURES_PER_SECOND,
        start_seconds=max(each["start"] for each in found) + RAY_WORKER_SECONDS,
        train_start_seconds=RAY_TRAIN_SECONDS,
        train_extra_seconds=max(each.get("extra", 0.0) for each in found),
        cluster_start_seconds=0.0 if config.cluster.address else CLUSTER_SECONDS,
        report_seconds=REPORT_SECONDS,
    )


def _wait(workers: Sequence[Any], steps: Any, tell: Callable[[str], None]) -> None:
    """Wait for the measuring processes, and say what they do."""
    ends, step = time.monotonic() + MOST_SECONDS, "the start"
    try:
        while any(worker.is_alive() for worker in workers):
            while not steps.empty():
                tell(f"measuring {(step := steps.get())}")
            if time.monotonic() > ends:
                raise FailureError(
                    f"measuring this machine took more than {MOST_SECONDS:.0f} s (at {step}): it is busy, or the model is large for it. "
                    "Try again when it is idle, or give the plan --rates FILE"
                )
            workers[0].join(LOOK_SECONDS)
        if any(worker.exitcode != 0 for worker in workers):
            raise FailureError("measuring this machine failed (see above): give the plan --rates FILE instead")
    finally:
        for worker in workers:
            worker.terminate()


def _here(workers: int, cpus: float, cores: int) -> int:
    return max(1, min(workers, int(cores / max(1.0, cpus))))


@dataclass(frozen=True)
class _Duty:
    """Task of one process."""

    rank: int
    counts: dict[str, int]
    train_threads: int
    config: RunConfig
    widths: dict[str, int]


def _measure(duty: _Duty, barrier: Any, answers: Any, steps: Any) -> None:
    try:
        answers.put(_measured(duty, barrier, steps.put if duty.rank == 0 else lambda step: None))
    except BaseException:
        barrier.abort()  # the others would wait for this one
        raise


def _measured(duty: _Duty, barrier: Any, begin: Callable[[str], None]) -> dict[str, float]:
    """One process: the harvest's stages beside the other harvesters, then training beside the other trainers."""
    rank, counts, config = duty.rank, duty.counts, duty.config
    where = device() if config.harvest.pool.num_gpus else "cpu"
    torch.set_num_threads(max(1, math.ceil(config.harvest.pool.num_cpus)))
    began = time.perf_counter()
    subject = Subject.load(config.subject, where)
    found = {"start": time.perf_counter() - began}
    tokens = torch.randint(0, subject.d_vocab, _sequences(config), generator=torch.Generator().manual_seed(rank))
    activations = subject.activations(tokens.to(where), [config.hookpoint])[config.hookpoint].flatten(0, 1).float()
    dictionaries = {each.name: _begun(each, activations) for each in config.training.dictionaries}
    phases: list[tuple[str, Callable[[], int]]] = [
        ("tokenise", lambda: _tokenise(subject)),
        ("harvest", lambda: _harvest(config, subject, duty.widths, tokens)),
        ("evaluate", lambda: _evaluate(config, subject, dictionaries, activations, tokens)),
        ("read", lambda: _read(config, subject, dictionaries, tokens)),
    ]
    for name, work in phases:
        barrier.wait(MOST_SECONDS)
        begin(name)
        if rank < (1 if name == "tokenise" else counts["harvest"]):
            found[name] = _per_second(work)
    barrier.wait(MOST_SECONDS)
    begin("train")
    if rank < counts["train"]:
        torch.set_num_threads(duty.train_threads)
        activations = activations.to(device() if config.trainer.num_gpus else "cpu")
        mine = config.training.dictionaries[rank :: counts["train"]]
        steps = [_step_seconds(each, activations, config.training.batch_size) for each in mine]
        found["train"] = config.training.batch_size / sum(typical for typical, _ in steps)
        found["extra"] = sum(FIRST_STEPS * max(0.0, first - typical) for typical, first in steps)
    return found


def _sequences(config: RunConfig) -> tuple[int, int]:
    length = config.corpus.context_length
    return max(2, TOKENS // length), length


def _per_second(work: Callable[[], int]) -> float:
    work()
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < PHASE_SECONDS:
        done += work()
    return done / (time.perf_counter() - began)


def _tokenise(subject: Subject) -> int:
    text = Path(torch.nn.functional.__file__).read_text(encoding="utf-8")
    return sum(map(len, subject.tokenizer.encode([text] * 2 * (os.cpu_count() or 1))))  # documents go to all cores


def _harvest(config: RunConfig, subject: Subject, widths: dict[str, int], tokens: Tensor) -> int:
    plan = StorePlan(
        subject="plan", subject_digest="plan", corpus_digest="plan", context_length=tokens.shape[1], hookpoints=widths, dtype=config.harvest.dtype,
        compression=config.harvest.compression, num_sequences=len(tokens), sequences_per_shard=len(tokens),
        tokens_per_sequence=config.harvest.tokens_per_sequence, special_token_ids=sorted(subject.tokenizer.special_token_ids),
    )  # fmt: skip
    parts = [subject.activations(part.to(subject.device), list(widths)) for part in tokens.split(config.harvest.sequences_per_forward)]
    activations = {name: torch.cat([part[name] for part in parts]) for name in widths}
    with tempfile.TemporaryDirectory() as scratch:
        write_shard(Place(scratch), plan, 0, tokens.numpy().astype(np.uint32), activations)
    return tokens.numel()


def _evaluate(config: RunConfig, subject: Subject, dictionaries: dict[str, Dictionary], activations: Tensor, tokens: Tensor) -> int:
    part = tokens[: config.evaluation.sequences_per_forward].to(subject.device)
    evaluate_sequences(subject, config.hookpoint, dictionaries, activations.mean(0), part, 0)
    return part.numel()


def _read(config: RunConfig, subject: Subject, dictionaries: dict[str, Dictionary], tokens: Tensor) -> int:
    part = tokens[: config.evaluation.sequences_per_forward].to(subject.device)
    x = subject.activations(part, [config.hookpoint])[config.hookpoint].flatten(0, 1).float()
    for dictionary in dictionaries.values():
        dictionary.encode_sparse(x)
    NeuronSource(x.shape[1]).firings(x)
    for _ in config.interpretation.controls.kinds:  # each costs about what random directions do
        random_directions(x.mean(0).cpu(), config.interpretation.controls.num_features, 0).firings(x)
    return part.numel()


def _begun(config: DictionaryConfig, vectors: Float[Tensor, "vector d_in"], typical: bool = True) -> Dictionary:
    """A dictionary as training begins it, or as it is for most of the training: a ReLU's begins with half of all features firing."""
    dictionary = build_dictionary(config.sae, vectors.shape[1]).to(vectors.device)
    scale = vectors.shape[1] ** 0.5 / float(vectors.norm(dim=1).mean())
    dictionary.input_scale.fill_(scale)
    dictionary.initialize(vectors.mean(0) * scale, torch.Generator().manual_seed(0))
    if typical and config.sae.architecture == "relu":
        with torch.no_grad():
            pre = (vectors[:256] * scale - dictionary.b_dec) @ dictionary.W_enc + dictionary.b_enc
            dictionary.b_enc.sub_(pre.flatten().kthvalue(pre.numel() - TYPICAL_L0 * len(pre)).values)
    return dictionary


def _step_seconds(config: DictionaryConfig, vectors: Float[Tensor, "vector d_in"], batch_size: int) -> tuple[float, float]:
    """Measure the seconds of a typical step, and of one of the first."""
    x = vectors[torch.randint(0, len(vectors), (batch_size,), generator=torch.Generator().manual_seed(0))]
    found = []
    for typical in (True, False):
        dictionary = _begun(config, vectors, typical)
        optimizer = build_optimizer(dictionary, config.optimizer)

        def step(dictionary: Dictionary = dictionary, optimizer: Any = optimizer) -> int:
            optimizer.zero_grad(set_to_none=True)
            dictionary.training_pass(x).losses["total"].backward()
            dictionary.before_step()
            optimizer.step()
            dictionary.after_step()
            return 1

        found.append(1 / _per_second(step))
    return found[0], found[1]
