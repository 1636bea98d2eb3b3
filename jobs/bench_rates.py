"""Rates of a run's stages, from the lines of `make bench` of a machine of the kind that is planned for."""

import math
from pathlib import Path
from typing import Any

from jobs.config import RunConfig
from jobs.rates import CLUSTER_SECONDS, EXPLAIN_FEATURES_PER_SECOND, RAY_TRAIN_SECONDS, RAY_WORKER_SECONDS, REPORT_SECONDS
from sae.errors import InputError
from sae.storage import parse_json_lines
from sae.subject.model import Subject
from services.cluster.capacity import Rates

# The machine of `make bench` and its sizes; its harvest runs on two threads, its training step on all of two cores.
MOST_BENCH_BYTES = 2**22
BENCH_CORES, BENCH_BATCH, BENCH_ENCODE = 2, 4096, 512 * 4096
BENCH_STEPS = {"topk": "train_step_topk", "relu": "train_step_relu"}


def rates_of_bench(path: str, config: RunConfig, subject: Subject, widths: dict[str, int], embedded_parameters: int) -> Rates:
    """Read the rates of a worker from the lines of `make bench`, scaled by arithmetic to this run's model and dictionaries.

    Raises:
        InputError: no such file, or not the lines of `harvest` and of a training step.
    """
    lines = _bench_lines(path)
    gpu = bool(lines["harvest"]["machine"]["gpu"])
    threads = BENCH_CORES if not gpu else 1
    scale = embedded_parameters / max(1, subject.num_parameters)
    harvest = lines["harvest"]["value"] / threads * (1 if gpu else max(1, math.ceil(config.harvest.pool.num_cpus))) * scale
    d_in, seconds = widths[config.hookpoint], 0.0
    for dictionary in config.training.dictionaries:
        name = BENCH_STEPS.get(dictionary.sae.architecture, "")
        step = lines[name if name in lines else next(each for each in BENCH_STEPS.values() if each in lines)]
        seconds += step["value"] / 1e3 / BENCH_BATCH * dictionary.sae.d_sae * d_in / BENCH_ENCODE
    own = max(1, -(-len(config.training.dictionaries) // config.trainer.num_workers))
    seconds *= own / len(config.training.dictionaries)
    share = 1.0 if gpu or not config.trainer.num_cpus else math.ceil(config.trainer.num_cpus) / BENCH_CORES
    passes = 3 + len(config.training.dictionaries)
    return Rates(
        tokenise=400_000.0, harvest=harvest, train=share / seconds, evaluate=harvest / passes / 2, read=harvest / 2,
        explain=EXPLAIN_FEATURES_PER_SECOND, start_seconds=2.0 + RAY_WORKER_SECONDS, train_start_seconds=RAY_TRAIN_SECONDS,
        cluster_start_seconds=0.0 if config.cluster.address else CLUSTER_SECONDS, report_seconds=REPORT_SECONDS,
    )  # fmt: skip


def _bench_lines(path: str) -> dict[str, Any]:
    lines: dict[str, Any] = {}
    data = _bench_text(path)
    try:
        found = list(parse_json_lines(data, path))
    except InputError as error:
        raise InputError(f"{path} is not the output of `make bench`: {error}") from None
    for line in found:
        if not isinstance(line, dict) or "value" not in line:
            continue  # skipped on that machine
        if not isinstance(line.get("benchmark"), str):
            raise InputError(f"{path} is not the output of `make bench`: expected one JSON object a line, each with a benchmark")
        if line["benchmark"] in ("harvest", *BENCH_STEPS.values()) and not _is_rate(line):
            raise InputError(f"{path}: the line of {line['benchmark']} has no positive value, or no machine with a gpu. Run `make bench` again")
        lines[line["benchmark"]] = line
    if "harvest" not in lines or not {*BENCH_STEPS.values()} & set(lines):
        known = ", ".join(sorted(lines))[:200]
        raise InputError(f"{path} lacks the benchmarks harvest and train_step_topk or train_step_relu, it has {known or 'none'}")
    return lines


def _bench_text(path: str) -> bytes:
    try:
        if not Path(path).is_file():
            raise InputError(f"cannot read the rates {path!r}: no such file (make bench > FILE)")
        with open(path, "rb") as file:
            data = file.read(MOST_BENCH_BYTES + 1)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the rates {path!r}: {getattr(error, 'strerror', None) or error} (make bench > FILE)") from None
    if len(data) > MOST_BENCH_BYTES:
        raise InputError(f"{path} has more than {MOST_BENCH_BYTES:,} bytes: it is not the output of `make bench`")
    return data


def _is_rate(line: dict[str, Any]) -> bool:
    value, machine = line["value"], line.get("machine")
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e15 and isinstance(machine, dict) and "gpu" in machine
