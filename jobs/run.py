"""Run stages one after the other, with progress bars, timings and the resolved configuration beside their output."""

import importlib.metadata
import platform
import time
from dataclasses import dataclass
from typing import Any

from jobs.checks import check_run
from jobs.config import RunConfig
from jobs.stages import STAGES, WHOLE_WAY, idle_gpus
from sae.config import shown
from sae.corpus.manifest import CORPUS_MANIFEST_KEY
from sae.errors import PlanError
from sae.log import log
from sae.records import put_record
from sae.run.layout import CONFIG_KEY, STAGES_KEY
from sae.run.records import RunStages, read_stages
from sae.storage import Place
from sae.storage.lease import hold_lease
from sae.store import PLAN_KEY
from services.ending import afterwards
from services.monitoring.progress import ProgressDisplay
from services.monitoring.resources import PeakMemory
from services.session import Session, choose_executor, open_session

VERSIONED = ("monosem", "torch", "ray", "transformer-lens", "transformers", "tokenizers", "pyarrow", "numpy")


@dataclass(frozen=True)
class StageCost:
    """Cost of one attempt at a stage."""

    seconds: float
    peak_bytes: int
    finished: bool


def run_stages(config: RunConfig, names: tuple[str, ...] = WHOLE_WAY, from_scratch: bool = False, overlap: bool = False) -> dict[str, Any]:
    """Run the named stages; what is finished is skipped, what was interrupted continues. With `overlap`, harvest and training come together.

    Returns:
        The run's record, as `OUTPUT/stages.json` holds it: for each stage seconds and peak resident bytes, versions, seeds, cluster.

    Raises:
        LeaseError: another command works at one of these stages of the same output.
        PlanError: the output holds a run of another subject or corpus.
    """
    if from_scratch:
        names = ("pretrain", *names)
        config = config.model_copy(update={"subject": config.subject.model_copy(update={"model": f"{config.output}/subject"})})
    check_run(config, names, from_scratch)
    if names != ("pretrain",):
        _write_resolved(config)
    started = time.monotonic()
    executor, reason = choose_executor(config.cluster)
    with open_session(config.cluster) as session:
        log("started", executor=executor, reason=reason, output=config.output, metrics=session.monitor.endpoint() or "off", **session.machine)
        overlap = overlap and _can_overlap(session)
        if executor == "ray" and (advice := idle_gpus(config, session.machine["gpus"])):
            log("gpus_idle", gpus=session.machine["gpus"], to_use_them=advice)
        with ProgressDisplay(session.monitor):
            startup = time.monotonic() - started
            for name in names:
                if overlap and name == "harvest":
                    record = _run_overlapped(config, session, startup)
                elif not (overlap and name == "train"):
                    record = _run_stage(config, name, session, startup)
                startup = 0.0
    return record


def _can_overlap(session: Session) -> bool:
    if session.name == "local":
        log("stages_in_turn", stages="harvest,train", reason="one process does one stage at a time")
    return session.name == "ray"


def _run_stage(config: RunConfig, name: str, session: Session, startup_seconds: float) -> dict[str, Any]:
    log("stage_started", stage=name)
    started, finished, record = time.monotonic(), False, dict[str, Any]()
    memory = PeakMemory()

    def keep_record() -> None:
        record.update(_update_record(config, name, session, StageCost(time.monotonic() - started + startup_seconds, memory.peak_bytes, finished)))

    with hold_lease(_stage_lease(config, name)), afterwards("the record of the stages", keep_record):
        with memory:
            STAGES[name](config, session)
        finished = True
    seconds = time.monotonic() - started
    session.monitor.set("monosem_stage_seconds", seconds, stage=name)
    log("stage_finished", stage=name, seconds=round(seconds, 1), peak_gib=memory.peak_bytes / 2**30)
    return record


def _run_overlapped(config: RunConfig, session: Session, startup_seconds: float) -> dict[str, Any]:
    from jobs.overlap import harvest_and_train  # needs Ray

    started, ended, record = time.monotonic(), dict[str, float](), dict[str, Any]()
    memory = PeakMemory()

    def done(name: str) -> None:
        ended[name] = time.monotonic()
        log("stage_finished", stage=name, seconds=round(ended[name] - started, 1))

    def keep_record() -> None:
        # The time that both took counts once, for the harvest: the stages add up to the run.
        first = min(ended.values(), default=time.monotonic())
        _update_record(config, "harvest", session, StageCost(first - started + startup_seconds, memory.peak_bytes, "harvest" in ended))
        record.update(_update_record(config, "train", session, StageCost(time.monotonic() - first, memory.peak_bytes, "train" in ended)))

    with hold_lease(_stage_lease(config, "train")), afterwards("the record of the stages", keep_record), memory:
        harvest_and_train(config, session, done)
    for name, cost in record["stages"].items():
        session.monitor.set("monosem_stage_seconds", cost["seconds"], stage=name)
    return record


def _stage_lease(config: RunConfig, name: str) -> Place:
    """Where a stage's lease lies: one command at a time works at a stage of a run, since two would do the work twice or delete each other's files.

    The harvest holds a lease of its store besides, which other runs may share.
    """
    return config.place.child("leases", name)


def _update_record(config: RunConfig, name: str, session: Session, cost: StageCost) -> dict[str, Any]:
    place = config.place
    found = read_stages(place)
    record: dict[str, Any] = found.model_dump(mode="json") if found else {"stages": {}}
    before = record["stages"].get(name, {"seconds": 0.0, "peak_rss_bytes": 0, "finished": False})
    if before["finished"] and name != "report":
        return record  # skipped: what it cost was counted when it was done
    record["stages"][name] = {
        # A stage that was interrupted took the time of all its attempts.
        "seconds": cost.seconds + (0.0 if before["finished"] else before["seconds"]),
        "peak_rss_bytes": max(before["peak_rss_bytes"], cost.peak_bytes),
        "finished": cost.finished,
    }
    record["versions"] = {package: _version(package) for package in VERSIONED} | {"python": platform.python_version()}
    record["seeds"] = {"harvest": config.harvest.seed, "training": config.training.seed, "interpretation": config.interpretation.seed}
    record["machine"] = {"processor": platform.processor() or platform.machine(), **session.machine}
    put_record(place, STAGES_KEY, RunStages.parse(record))
    return record


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _write_resolved(config: RunConfig) -> None:
    place, key = config.place, CONFIG_KEY
    resolved = config.model_dump(mode="json", exclude={"cluster", "plan"})
    if place.exists(key):
        differing = _differing(place.get_sealed(key), resolved)
        if differing and _has_work(config):
            raise PlanError(
                f"{place.url} holds a run with another {', '.join(differing)} ({place.path(key)}). Choose another output, or delete what is there"
            )
    place.put_sealed(key, resolved)


def _differing(found: dict[str, Any], resolved: dict[str, Any]) -> list[str]:
    """The settings that decide what a run is of and that differ, with both values."""
    differing = []
    for section in ("subject", "corpus", "store"):
        there, now = found.get(section), resolved[section]
        if isinstance(there, dict) and isinstance(now, dict):
            differing += [
                f"{section}.{name} (there {shown(there.get(name))}, now {shown(now[name])})" for name in now if there.get(name) != now[name]
            ]
        elif there != now:
            differing.append(f"{section} (there {shown(there)}, now {shown(now)})")
    return differing


def _has_work(config: RunConfig) -> bool:
    """Say whether a run left anything in the output that another one would mix with: an attempt that was refused did not."""
    record = read_stages(config.place)
    if record and any(cost.finished for cost in record.stages.values()):
        return True
    return Place(config.corpus_url).exists(CORPUS_MANIFEST_KEY) or config.place.child("store").exists(PLAN_KEY)
