"""What the benchmarks of training steps share: a batch of real activations, our step by the classes that train, the peers' beside it."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sae.architectures.config import ReluConfig, TopKConfig
from sae.architectures.registry import build_dictionary
from sae.corpus.packing import prepare_corpus
from sae.corpus.sources import CorpusConfig
from sae.storage import Place
from sae.subject.model import Subject, SubjectConfig
from sae.training.config import DictionaryConfig
from sae.training.dictionary_run import DictionaryRun, Schedule
from sae.training.optimization import OptimizerConfig
from tests.benchmarks.peers import Peer

HOOKPOINT = "blocks.0.mlp.hook_post"
BATCH, D_IN, D_SAE, L0, K = 4096, 512, 4096, 50, 32
NUM_STEPS = 100_000
OWN = ("monosem", "monosem_bfloat16", "encode_product")


def real_batch(batch: int = BATCH) -> Tensor:
    """Activations of the embedded subject model on the embedded text, shuffled, scaled to a mean norm of √d_in: [batch d_in]."""
    subject = Subject.load(SubjectConfig())
    with tempfile.TemporaryDirectory() as scratch:
        text = CorpusConfig(text=["dependencies"], context_length=256, train_tokens=256 * (batch // 255 + 1), held_out_tokens=256)
        corpus = prepare_corpus(text, subject.tokenizer, Place(scratch))
        tokens = torch.from_numpy(corpus.sequences("train", 0, corpus.num_sequences("train")).astype(np.int64))
    x = torch.cat([subject.activations(part, [HOOKPOINT])[HOOKPOINT][:, 1:].flatten(0, 1) for part in tokens.split(32)])
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:batch]].contiguous()
    return x * (x.shape[1] ** 0.5 / x.norm(dim=1).mean())


def our_run(x: Tensor, architecture: str, d_sae: int = D_SAE, encode_dtype: str = "float32") -> DictionaryRun:
    """A dictionary in training as `sae.training` makes it; a ReLU's biases are lowered until about L0 features fire.

    The learning rate is so small that L0 stays where it is: what a step costs depends on what fires, not on the rate.
    """
    sae = ReluConfig(d_sae=d_sae, l1_coefficient=0.01) if architecture == "relu" else TopKConfig(d_sae=d_sae, k=K)
    config = DictionaryConfig(name="bench", sae=sae, optimizer=OptimizerConfig(learning_rate=1e-5))
    dictionary = build_dictionary(sae, x.shape[1]).to(x.device)
    dictionary.encode_dtype = getattr(torch, encode_dtype)
    dictionary.initialize(x.mean(0), torch.Generator().manual_seed(0))
    if architecture == "relu":
        with torch.no_grad():
            pre = (x[:1024] - dictionary.b_dec) @ dictionary.W_enc
            dictionary.b_enc.sub_(pre.flatten().kthvalue(pre.numel() - L0 * len(pre)).values)
    schedule = Schedule(num_steps=NUM_STEPS, batch_size=len(x), log_every=NUM_STEPS, dead_window_vectors=10_000_000)
    return DictionaryRun(config, dictionary, schedule, None, x.mean(0), lambda name, row: None)


def own_sides(x: Tensor, run: DictionaryRun) -> dict[str, Callable[[], float]]:
    """Seconds of our step and of the encode product alone: in float32 on a CPU whatever the step does, on a GPU in the step's own precision."""
    dtype = run.dictionary.encode_dtype if x.is_cuda else torch.float32
    rows, W_enc = x.to(dtype), torch.randn(x.shape[1], run.dictionary.d_sae, device=x.device, dtype=dtype)
    return {"monosem": lambda: seconds_of(lambda: run.train_on(x)), "encode_product": lambda: seconds_of(lambda: torch.mm(rows, W_enc))}


def seconds_of(call: Callable[[], Any]) -> float:
    """Wall time of a call, the GPU's work included."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    began = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - began


def medians(sides: dict[str, Callable[[], float]], rounds: int, warm_up: int = 2) -> dict[str, float]:
    """The median of each side's seconds, all sides called in turn in every round, three times each.

    The first of the three is not counted: it finds the caches full of another side's numbers, which no step of a training run does.
    """
    found: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(warm_up + rounds):
        for name, side in sides.items():
            _, *seconds = (side() for _ in range(3))
            if turn >= warm_up:
                found[name] += seconds
    return {name: statistics.median(times) for name, times in found.items()}


def beside_peers(architecture: str, encode_dtype: str, rounds: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Median seconds of our step, of the encode product, and of each peer's step on the same batch; and the details of all sides.

    Raises:
        Skipped: the peers are not installed.
    """
    torch.set_num_threads(2)
    with Peer("tests.benchmarks.peer_train_step") as peer, tempfile.TemporaryDirectory() as scratch:
        x = real_batch()
        torch.save(x, Path(scratch) / "batch.pt")
        run = our_run(x, architecture, encode_dtype=encode_dtype)
        peers = peer.ask(action="prepare", architecture=architecture, batch_path=f"{scratch}/batch.pt", d_sae=D_SAE, k=K, l0=L0)["l0"]
        theirs = {name: lambda name=name: float(peer.ask(action="step", peer=name)["seconds"]) for name in peers}
        by_bfloat16 = our_run(x, architecture, encode_dtype="bfloat16")
        also = {"monosem_bfloat16": lambda: seconds_of(lambda: by_bfloat16.train_on(x))} if encode_dtype == "float32" else {}
        times = medians(own_sides(x, run) | also | theirs, rounds)
    l0 = {"monosem": run.dictionary.encode_sparse(x).l0} | peers
    sizes = {"batch": BATCH, "d_in": D_IN, "d_sae": D_SAE, "threads": 2}
    return times, {**sizes, "milliseconds": {name: round(1e3 * value, 1) for name, value in times.items()}, "l0": l0}


def ratios_of(times: dict[str, float]) -> dict[str, float]:
    """Our step as a multiple of the encode product; each peer's, and the fastest one's, as a multiple of ours."""
    ours = times["monosem"]
    peers = {name: value / ours for name, value in times.items() if name not in OWN}
    return {"encode_product": ours / times["encode_product"], **peers, "fastest_peer": min(peers.values())}
