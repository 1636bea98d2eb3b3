"""Which fault strikes at which stage of a run."""

import random

from tests.chaos.faults import BRIEF, COMMAND, NODES, OBJECT_STORE

Schedule = list[tuple[str, str]]  # stages and kinds of faults, in their order
STAGE_SHARES = {"harvest": 0.2, "train": 0.6, "evaluate": 0.1, "interpret": 0.1}

# Every kind, in an order that takes little time. The files are on a disk, the store is on an object store.
EVERY_KIND: Schedule = [
    (stage, kind)
    for stage, kinds in {
        "harvest": (
            "object store silent", "worker killed", "node cut off for a while", "object store slow", "command got SIGINT",
            "worker stopped for a while", "node lost its power", "head cut off for a while", "disk silent",
        ),
        "train": (
            "node stopped for a while", "disk full", "worker stopped for a while", "object store silent", "worker killed", "disk slow",
            "command got SIGTERM", "node cut off for a while", "disk read-only", "disk silent", "object store silent", "worker killed",
            "node cut off until it was taken for dead", "object store slow", "head cut off for a while", "disk full",
            "worker stopped for a while", "node stopped for a while", "disk read-only", "worker killed", "disk slow",
            "two nodes lost their power at once", "disk silent", "node cut off for a while", "disk full", "head cut off for a while",
        ),
        "evaluate": ("worker stopped for a while", "disk full", "command got SIGHUP", "disk read-only", "worker killed"),
        "interpret": ("worker stopped for a while", "disk slow", "command killed", "node stopped for a while"),
    }.items()
    for kind in kinds
]  # fmt: skip


def drawn_schedule(number: int, object_store: bool) -> Schedule:
    """The schedule of one of many runs: brief faults most often, since a lost node or command costs as much time as ten of them.

    Args:
        number: of the run; decides all else. Four runs have every kind.
        object_store: whether there is one that may be silent or slow.
    """
    draw = random.Random(number)
    kinds = [*BRIEF, *BRIEF, *(2 * [*OBJECT_STORE] if object_store else []), *9 * ["worker killed"]]
    kinds += [kind for few in (COMMAND, NODES) for kind in (2 * [*few])[number % len(few) :][:2]]
    draw.shuffle(kinds)
    stages = sorted(draw.choices([*STAGE_SHARES], [*STAGE_SHARES.values()], k=len(kinds)), key=[*STAGE_SHARES].index)
    return list(zip(stages, kinds, strict=True))
