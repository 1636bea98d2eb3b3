"""Eight dictionaries evaluated together against eight evaluations of one: the same sequences, a worker of one torch thread, its model loaded anew.

Once on the embedded one-layer model, whose passes cost no more than its dictionaries do, and once on a random model of six layers. The lone
evaluations come half before the common one and half after it, so that a machine that slows down slows both sides.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sae.evaluation.evaluate import EvaluationJob, EvaluationWorker
from tests.benchmarks.evaluations import embedded_setting, evaluation_job, six_layer_setting
from tests.benchmarks.harness import Bar, Measurement
from tests.benchmarks.harvests import on_disk

DICTIONARIES = 8
SEQUENCES = {"embedded": 64, "six_layers": 32}


def measure() -> Measurement:
    torch.set_num_threads(1)
    with on_disk() as directory:
        settings = {"embedded": embedded_setting(), "six_layers": six_layer_setting(directory)}
        found = {
            name: compared(evaluation_job(setting, made(directory / name), DICTIONARIES, SEQUENCES[name]), SEQUENCES[name])
            for name, setting in settings.items()
        }
    ratios = {name: sides["separate"] / sides["together"] for name, sides in found.items()}
    rate = DICTIONARIES * SEQUENCES["embedded"] * 256 / found["embedded"]["together"]
    details = {"dictionaries": DICTIONARIES, "tokens": {name: count * 256 for name, count in SEQUENCES.items()}, "seconds": found}
    return Measurement(rate, "tokens × dictionaries/s", ratios, {name: Bar(">=", 2.5) for name in ratios}, details)


def made(directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    return directory


def compared(job: EvaluationJob, num_sequences: int) -> dict[str, float]:
    lone = [replace(job, dictionary_urls={name: url}) for name, url in job.dictionary_urls.items()]
    evaluated(lone[0], 8)
    half = len(lone) // 2
    before = [evaluated(one, num_sequences) for one in lone[:half]]
    seconds, together = evaluated(job, num_sequences)
    alone = before + [evaluated(one, num_sequences) for one in lone[half:]]
    for _, found in alone:
        for name, sums in found.items():
            assert sums.downstream.figures(0) == together[name].downstream.figures(0), "together as alone, to the last digit"
    return {"together": seconds, "separate": sum(each for each, _ in alone)}


def evaluated(job: EvaluationJob, num_sequences: int) -> tuple[float, dict[str, Any]]:
    began = time.perf_counter()
    found = EvaluationWorker(job).run((0, num_sequences))
    return time.perf_counter() - began, found
