"""A whole TopK training step on a GPU, at three widths, against a bfloat16 encode product and the peers' steps (SAELens with autocast, sparsify)."""

import tempfile
from pathlib import Path

import torch

from tests.benchmarks.harness import Bar, Measurement, Skipped
from tests.benchmarks.peers import Peer
from tests.benchmarks.train_steps import D_IN, K, medians, our_run, own_sides, ratios_of, real_batch

WIDTHS = (4096, 32768, 131072)
BATCH = 8192


def measure() -> Measurement:
    if not torch.cuda.is_available():
        raise Skipped("no CUDA device here")
    x = real_batch(BATCH).cuda()
    found = {}
    for d_sae in WIDTHS:
        with Peer("tests.benchmarks.peer_train_step") as peer, tempfile.TemporaryDirectory() as scratch:
            torch.save(x.cpu(), Path(scratch) / "batch.pt")
            arguments = {"architecture": "topk", "batch_path": f"{scratch}/batch.pt", "d_sae": d_sae, "k": K, "l0": K, "device": "cuda"}
            names = peer.ask(action="prepare", **arguments)["l0"]
            theirs = {name: lambda name=name, peer=peer: float(peer.ask(action="step", peer=name)["seconds"]) for name in names}
            found[d_sae] = medians(own_sides(x, our_run(x, "topk", d_sae, "bfloat16")) | theirs, rounds=10)
        torch.cuda.empty_cache()
    ratios = {f"{name}_{d_sae}": ratio for d_sae, times in found.items() for name, ratio in ratios_of(times).items()}
    bars = {f"encode_product_{d_sae}": Bar("<=", 2.0) for d_sae in WIDTHS} | {f"fastest_peer_{d_sae}": Bar(">=", 3.0) for d_sae in WIDTHS}
    milliseconds = {str(d_sae): {name: round(1e3 * value, 2) for name, value in times.items()} for d_sae, times in found.items()}
    return Measurement(
        1e3 * found[WIDTHS[0]]["monosem"], "ms a step", ratios, bars, {"batch": BATCH, "d_in": D_IN, "k": K, "milliseconds_by_d_sae": milliseconds}
    )
