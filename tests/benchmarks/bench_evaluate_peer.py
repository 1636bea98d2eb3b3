"""Evaluation of one dictionary against SAELens' run_evals with everything switched on: the same model, dictionary and tokens, two cores each.

Ours runs as a pool of two workers does, but without Ray: two processes of one torch thread. It also ablates with the mean, which theirs does
not. Loading is left out on both sides; figures that mean the same must be the same.
"""

import statistics
import time
from typing import Any

import numpy as np

from sae.corpus.packing import TokenCorpus
from sae.evaluation.evaluate import EvaluationWorker, merge_parts
from sae.interoperability.exchange import export_dictionary
from sae.storage import Place
from sae.subject.model import EMBEDDED_DIRECTORY
from tests.benchmarks.evaluations import SEQUENCES_PER_FORWARD, embedded_setting, evaluation_job
from tests.benchmarks.harness import Bar, Measurement
from tests.benchmarks.harvests import on_disk
from tests.benchmarks.peers import Peer
from tests.benchmarks.workers import CORES, Workers

SEQUENCES, REPEATS = 64, 3


def measure() -> Measurement:
    with on_disk() as directory:
        setting = embedded_setting()
        job = evaluation_job(setting, directory, 1, SEQUENCES)
        corpus = TokenCorpus(Place(job.corpus_url))
        np.save(directory / "tokens.npy", corpus.sequences("held_out", 0, SEQUENCES))
        export_dictionary(Place(job.dictionary_urls["topk0"]), "saelens", Place(directory / "exported"))
        asked = {
            "model": str(EMBEDDED_DIRECTORY), "tokens": str(directory / "tokens.npy"), "dictionary": str(directory / "exported"),
            "hookpoint": setting.hookpoint, "batch": SEQUENCES_PER_FORWARD, "special": [corpus.manifest.bos_token_id], "threads": CORES,
        }  # fmt: skip
        ours, theirs = [], []
        with Peer("tests.benchmarks.peer_evaluate") as peer, Workers(EvaluationWorker, job) as workers:
            evaluate(workers)
            for _ in range(REPEATS):
                seconds, sums = evaluate(workers)
                ours.append(seconds)
                theirs.append(peer.ask(**asked))
    check_figures(sums["topk0"], theirs[0]["figures"])
    rates = {"ours": SEQUENCES * 256 / statistics.median(ours), "saelens": SEQUENCES * 256 / statistics.median(each["seconds"] for each in theirs)}
    return Measurement(
        rates["ours"], "tokens/s", {"saelens": rates["ours"] / rates["saelens"]}, {"saelens": Bar(">=", 3)}, {"tokens_per_second": rates}
    )


def evaluate(workers: Workers) -> tuple[float, dict[str, Any]]:
    step = SEQUENCES // CORES
    began = time.perf_counter()
    parts = workers.call(EvaluationWorker.run, [(number * step, (number + 1) * step) for number in range(CORES)])
    return time.perf_counter() - began, merge_parts(parts)


def check_figures(sums: Any, theirs: dict[str, Any]) -> None:
    downstream, reconstruction, sparsity = sums.downstream.figures(0), sums.reconstruction.figures(), sums.sparsity.figures()
    pairs = [
        (downstream.cross_entropy.clean, theirs["model_performance_preservation"]["ce_loss_without_sae"]),
        (downstream.cross_entropy.spliced, theirs["model_performance_preservation"]["ce_loss_with_sae"]),
        (reconstruction.explained_variance, theirs["reconstruction_quality"]["explained_variance"]),
        (reconstruction.mean_squared_error, theirs["reconstruction_quality"]["mse"]),
        (reconstruction.reconstruction_norm, theirs["shrinkage"]["l2_norm_out"]),
        (sparsity.l0, theirs["sparsity"]["l0"]),
    ]
    np.testing.assert_allclose([mine for mine, _ in pairs], [its for _, its in pairs], rtol=2e-3)
