"""Evaluation of one dictionary against SAELens' run_evals with everything switched on: the same model, dictionary and tokens, two cores each.

Ours runs as a pool of two workers does, but without Ray: two processes of one torch thread. It also ablates with the mean, which theirs does
not. Loading is left out on both sides; figures that mean the same must be the same.
"""

import multiprocessing
import statistics
import time
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch

from sae.corpus.packing import TokenCorpus
from sae.interoperability.exchange import export_dictionary
from sae.storage import Place
from sae.subject import EMBEDDED_DIRECTORY
from services.evaluator import EvaluationJob, EvaluationWorker, merge_parts
from tests.benchmarks.evaluations import SEQUENCES_PER_FORWARD, embedded_setting, evaluation_job
from tests.benchmarks.harness import Bar, Measurement
from tests.benchmarks.harvests import CORES, on_disk
from tests.benchmarks.peers import Peer

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
        with Peer("tests.benchmarks.peer_evaluate") as peer:
            workers = Workers(job)
            workers.run()
            for _ in range(REPEATS):
                seconds, sums = workers.run()
                ours.append(seconds)
                theirs.append(peer.ask(**asked))
            workers.stop()
    check_figures(sums["topk0"], theirs[0]["figures"])
    rates = {"ours": SEQUENCES * 256 / statistics.median(ours), "saelens": SEQUENCES * 256 / statistics.median(each["seconds"] for each in theirs)}
    return Measurement(
        rates["ours"], "tokens/s", {"saelens": rates["ours"] / rates["saelens"]}, {"saelens": Bar(">=", 3)}, {"tokens_per_second": rates}
    )


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


class Workers:
    """Evaluation workers, each a process of one torch thread with its share of the sequences."""

    def __init__(self, job: EvaluationJob) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipes, self.processes = [], []
        for _ in range(CORES):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, job), daemon=True)
            process.start()
            theirs.close()
            self.pipes.append(ours)
            self.processes.append(process)
        for pipe in self.pipes:
            pipe.recv()  # the model is loaded

    def run(self) -> tuple[float, dict[str, Any]]:
        step = SEQUENCES // CORES
        began = time.perf_counter()
        for number, pipe in enumerate(self.pipes):
            pipe.send((number * step, (number + 1) * step))
        parts = [pipe.recv() for pipe in self.pipes]
        return time.perf_counter() - began, merge_parts(parts)

    def stop(self) -> None:
        for pipe, process in zip(self.pipes, self.processes, strict=True):
            pipe.close()
            process.join()


def _serve(pipe: Connection, job: EvaluationJob) -> None:
    torch.set_num_threads(1)
    worker = EvaluationWorker(job)
    pipe.send("ready")
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        pipe.send(worker.run(task))
