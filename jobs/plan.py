"""`monosem plan`: what a run will take, from its configuration and a few seconds of measurement on this machine."""

import argparse
import tempfile
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jobs.config import RunConfig
from jobs.loading import load_config
from sae.architectures.registry import build_dictionary
from sae.errors import ConfigError
from sae.storage import Place
from sae.store.manifest import StorePlan
from sae.store.writer import write_shard
from sae.subject import Subject
from sae.training.dictionary_config import DictionaryConfig
from sae.training.optimization import build_optimizer

ROW_OVERHEAD_BYTES = 16  # sequence_id, position, token_id
BYTES_PER_VALUE = {"float16": 2, "bfloat16": 2, "float32": 4}
WORKER_BYTES = 700 * 2**20  # a Ray worker with torch, transformer_lens and a small model, measured
RAY_BYTES = 720 * 2**20  # a local cluster without dashboard, measured
TYPICAL_L0 = 32  # a ReLU dictionary begins with half of all features firing; most steps see about this many


@dataclass(frozen=True)
class Amounts:
    """What a run writes and reads, counted from its configuration."""

    tokens: int
    held_out_tokens: int
    vectors: int
    store_bytes: int
    objects: int
    shards: int


@dataclass(frozen=True)
class Rates:
    """What one worker of this machine does, measured."""

    harvest_tokens_per_second: float
    logits_tokens_per_second: float
    train_vectors_per_second: float


def plan_verb(options: argparse.Namespace) -> None:
    """Print tokens, bytes, objects, time and memory of a run."""
    config = load_config(options.config, options.overrides)
    subject = Subject.load(config.subject)
    widths = {hookpoint: subject.width(hookpoint) for hookpoint in config.harvest.hookpoints}
    amounts = count_amounts(config, widths)
    print(describe_plan(config, amounts, widths, measure_rates(config, subject, widths)))


def count_amounts(config: RunConfig, widths: dict[str, int]) -> Amounts:
    """Tokens, vectors, bytes and objects of a run.

    Raises:
        ConfigError: the configuration does not bound its text, so nothing can be said beforehand.
    """
    if config.corpus.train_tokens is None or config.corpus.held_out_tokens is None:
        raise ConfigError("corpus.train_tokens and corpus.held_out_tokens are null (all the text): set both so that a plan can be made")
    length = config.corpus.context_length
    sequences = -(-config.corpus.train_tokens // length)
    # Every sequence loses its BOS; further special tokens within make the store a little smaller than planned.
    rows_per_sequence = min(config.harvest.tokens_per_sequence or length - 1, length - 1)
    rows = sequences * rows_per_sequence
    value = BYTES_PER_VALUE[config.harvest.dtype]
    shards = -(-sequences // config.harvest.sequences_per_shard)
    store_bytes = sum(rows * (width * value + ROW_OVERHEAD_BYTES) for width in widths.values()) + sequences * (4 * length + 8)
    return Amounts(
        tokens=sequences * length,
        held_out_tokens=-(-config.corpus.held_out_tokens // length) * length,
        vectors=rows,
        store_bytes=store_bytes,
        objects=shards * (2 * len(widths) + 1) + 2,
        shards=shards,
    )


def measure_rates(config: RunConfig, subject: Subject, widths: dict[str, int]) -> Rates:
    """Run each expensive step for a moment: one shard of random tokens, its logits, a few steps of every dictionary."""
    length = config.corpus.context_length
    tokens = torch.randint(0, subject.d_vocab, (64, length), generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as scratch:
        _harvest_once(config, subject, widths, tokens, f"{scratch}/warm-up")
        began = time.perf_counter()
        activations = _harvest_once(config, subject, widths, tokens, f"{scratch}/timed")
        harvest_seconds = time.perf_counter() - began
    began = time.perf_counter()
    torch.log_softmax(subject.logits(tokens[:16]).float(), dim=-1)
    logits_seconds = time.perf_counter() - began
    vectors = activations[config.hookpoint].flatten(0, 1).float()
    step_seconds = sum(_step_seconds(dictionary, vectors, config.training.batch_size) for dictionary in config.training.dictionaries)
    return Rates(
        harvest_tokens_per_second=tokens.numel() / harvest_seconds,
        logits_tokens_per_second=tokens[:16].numel() / logits_seconds,
        train_vectors_per_second=config.training.batch_size / step_seconds,
    )


def describe_plan(config: RunConfig, amounts: Amounts, widths: dict[str, int], rates: Rates) -> str:
    """The plan as text, every quantity with its unit and where it comes from."""
    workers = config.harvest.num_workers
    harvest_seconds = amounts.tokens / rates.harvest_tokens_per_second
    train_seconds = amounts.vectors * config.training.epochs / rates.train_vectors_per_second
    passes = 3 + len(config.training.dictionaries)
    evaluate_seconds = amounts.held_out_tokens * passes / rates.logits_tokens_per_second
    parameters = sum(2 * dictionary.sae.d_sae * widths[config.hookpoint] for dictionary in config.training.dictionaries)
    training_bytes = parameters * 4 * 4  # weights, gradients, two moments
    peak = RAY_BYTES + WORKER_BYTES * (workers + 1) + config.cluster.object_store_bytes + training_bytes
    lines = [
        f"plan of {config.output}",
        f"  text         {amounts.tokens:,} tokens to train on, {amounts.held_out_tokens:,} held out",
        f"  activations  {amounts.vectors:,} vectors at each of {', '.join(f'{name} ({width} wide)' for name, width in widths.items())}",
        f"  store        {_size(amounts.store_bytes)} ({config.harvest.dtype}), {amounts.objects:,} objects in {amounts.shards:,} shards",
        f"  dictionaries {', '.join(f'{d.name} ({d.sae.architecture}, {d.sae.d_sae:,} features)' for d in config.training.dictionaries)}",
        "  time, from rates measured just now on this machine (all its cores together):",
        f"    harvest    {_duration(harvest_seconds)}  at {rates.harvest_tokens_per_second:,.0f} tokens/s",
        f"    train      {_duration(train_seconds)}  at {rates.train_vectors_per_second:,.0f} vectors/s through all dictionaries",
        f"    evaluate   {_duration(evaluate_seconds)}  at {rates.logits_tokens_per_second:,.0f} tokens/s, {passes} passes",
        "    interpret  not estimated: about as long as the evaluation for each million tokens read",
        f"  memory       about {peak / 2**30:.1f} GiB: Ray, {workers} workers, object store, {training_bytes / 2**20:,.0f} MiB of weights, moments",
    ]
    return "\n".join(lines)


def _harvest_once(config: RunConfig, subject: Subject, widths: dict[str, int], tokens: Tensor, url: str) -> dict[str, Tensor]:
    plan = StorePlan(
        subject="plan", subject_digest="plan", corpus_digest="plan", context_length=tokens.shape[1], hookpoints=widths, dtype=config.harvest.dtype,
        num_sequences=len(tokens), sequences_per_shard=len(tokens), tokens_per_sequence=config.harvest.tokens_per_sequence,
        special_token_ids=sorted(subject.tokenizer.special_token_ids),
    )  # fmt: skip
    parts = [subject.activations(part, list(widths)) for part in tokens.split(32)]
    activations = {name: torch.cat([part[name] for part in parts]) for name in widths}
    write_shard(Place(url), plan, 0, tokens.numpy().astype(np.uint32), activations)
    return activations


def _step_seconds(config: DictionaryConfig, vectors: Tensor, batch_size: int, steps: int = 3) -> float:
    dictionary = build_dictionary(config.sae, vectors.shape[1])
    scale = vectors.shape[1] ** 0.5 / float(vectors.norm(dim=1).mean())
    dictionary.input_scale.fill_(scale)
    dictionary.initialize(vectors.mean(0) * scale, torch.Generator().manual_seed(0))
    x = vectors[torch.randint(0, len(vectors), (batch_size,), generator=torch.Generator().manual_seed(0))]
    if config.sae.architecture == "relu":
        with torch.no_grad():
            pre = (x[:256] * scale - dictionary.b_dec) @ dictionary.W_enc + dictionary.b_enc
            dictionary.b_enc.sub_(pre.flatten().kthvalue(pre.numel() - TYPICAL_L0 * 256).values)
    optimizer = build_optimizer(dictionary, config.optimizer)
    began = 0.0
    for step in range(steps + 1):
        if step == 1:  # the first builds the optimiser's state
            began = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        dictionary.training_pass(x).losses["total"].backward()
        dictionary.before_step()
        optimizer.step()
        dictionary.after_step()
    return (time.perf_counter() - began) / steps


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:5.0f} s  "
    return f"{seconds / 60:5.0f} min" if seconds < 5400 else f"{seconds / 3600:5.1f} h  "
