"""Harvest: tokens to committed shards on a local disk, against the bare forward pass of the same model and against SAELens' cache.

One-layer model of width 128 with an MLP of 512, 64 MiB a shard in float16, two processes of one torch thread as in the default pool of two
workers. The bare pass is the faster of one stream on two threads and two streams on one thread each.
"""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from sae.corpus.packing import TokenCorpus
from sae.subject.model import EMBEDDED_DIRECTORY, SubjectConfig
from tests.benchmarks.harness import Bar, Measurement, Skipped, interleaved_seconds
from tests.benchmarks.harvests import HOOKPOINT, InProcess, bare_forward, check_bare_forward, embedded_corpus, embedded_plan, on_disk
from tests.benchmarks.peers import Peer
from tests.benchmarks.workers import CORES, Workers

TOKENS = 6 * 256 * 256
PEER_TOKENS = 2 * 256 * 256


def measure() -> Measurement:
    with on_disk() as directory, contextlib.ExitStack() as running:
        corpus = embedded_corpus(directory, TOKENS)
        tokens = corpus.sequences("train", 0, corpus.num_sequences("train"))
        check_bare_forward(bare_forward(), tokens[:4])
        candidates = {}
        for dtype in ("float32", "bfloat16"):
            candidates[f"bare_{dtype}_one_stream"] = whole_forward(dtype, tokens, streams=1)
            candidates[f"bare_{dtype}_two_streams"] = whole_forward(dtype, tokens, streams=CORES)
            candidates[f"harvest_{dtype}"] = running.enter_context(whole_harvest(dtype, corpus, directory / dtype))
        seconds = interleaved_seconds(candidates, repeats=3)
        rates = {name: tokens.size / found for name, found in seconds.items()}
        ratios = {}
        for dtype, tail in (("float32", ""), ("bfloat16", "_bf16")):
            bare = max(rates[f"bare_{dtype}_one_stream"], rates[f"bare_{dtype}_two_streams"])
            ratios[f"bare_forward{tail}"] = rates[f"harvest_{dtype}"] / bare
        details: dict[str, object] = {"tokens": tokens.size, "tokens_per_second": rates}
        try:
            rates["saelens"] = saelens_rate(tokens[: PEER_TOKENS // 256], directory)
            ratios["saelens"] = rates["harvest_float32"] / rates["saelens"]
        except Skipped as reason:
            details["saelens"] = str(reason)
    return Measurement(rates["harvest_float32"], "tokens/s", ratios, {"bare_forward": Bar(">=", 0.6), "saelens": Bar(">=", 5)}, details)


def whole_forward(dtype: str, tokens: np.ndarray, streams: int) -> Callable[[], object]:
    forward = bare_forward(getattr(torch, dtype))

    def run() -> None:
        torch.set_num_threads(CORES // streams)
        with ThreadPoolExecutor(streams) as threads:  # made now, so that they take up the number of threads
            list(threads.map(lambda start: forward(tokens[start : start + 32]) is None, range(0, len(tokens), 32)))

    return run


@contextlib.contextmanager
def whole_harvest(dtype: str, corpus: TokenCorpus, directory: Path) -> Iterator[Callable[[], object]]:
    """All shards anew at every call."""
    subject = SubjectConfig(dtype=dtype)
    plan = embedded_plan(corpus, subject)
    with Workers(InProcess, corpus, plan, directory, subject) as workers:

        def run() -> None:
            for kind in ("shards", "receipts", "tokens"):
                shutil.rmtree(directory / kind, ignore_errors=True)
            workers.call(InProcess.run, [list(range(number, plan.num_shards, CORES)) for number in range(CORES)])

        yield run


def saelens_rate(tokens: np.ndarray, directory: Path) -> float:
    """Tokens per second of the peer, whose first sequence must be what the bare forward pass gives."""
    np.save(directory / "tokens.npy", tokens)
    given = {"model": str(EMBEDDED_DIRECTORY), "tokens": str(directory / "tokens.npy"), "hookpoint": HOOKPOINT, "d_in": 512}
    with Peer("tests.benchmarks.peer_harvest") as peer:
        peer.ask(**given, target=str(directory / "saelens-warm-up"))  # its first seconds are imports and first calls
        found = peer.ask(**given, target=str(directory / "saelens"))
    assert found["tokens"] == tokens[0].tolist()
    expected = bare_forward()(tokens[:1])[0].numpy()
    np.testing.assert_allclose(np.load(found["first"]).astype(np.float32), expected, atol=2e-3, rtol=2e-3)
    return found["sequences"] * tokens.shape[1] / found["seconds"]
