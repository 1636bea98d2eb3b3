"""One attack in a process of its own, and what came of it."""

import hashlib
import json
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.attacks.commands_here import REFUSED, Ended

HANG_SECONDS = 60
MEMORY_BYTES = 12 * 2**30  # of address space: what asks for more is a fault, and must not take the machine
GOOD = ("refused", "the same", "less", "accepted")
TIMES = re.compile(r"second|_at$|time|rss|peak|versions|machine|cost|url|path|lease|written", re.IGNORECASE)


@dataclass(frozen=True)
class Outcome:
    """What came of one attack.

    Attributes:
        command: that was run.
        file: that was changed.
        kind: of the change.
        resealed: whether all digests were made to agree with it.
        what: refused, the same, less, accepted (a user's own input, or records whose digests all agree with the change); or bad: other results,
            no message, internal error, traceback, crash, hang.
        message: what was said.
        seconds: it took.
    """

    command: str
    file: str
    kind: str
    resealed: bool
    what: str
    message: str
    seconds: float

    @property
    def good(self) -> bool:
        """Whether the product kept its promise."""
        return self.what in GOOD


def in_a_child(work: Callable[[], Any], scratch: Path, seconds: float = HANG_SECONDS) -> tuple[Any, str]:
    """What `work` returns in a forked process; else None, and how the process ended."""
    answer, noise = scratch / "answer.json", scratch / "noise.txt"
    answer.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        with noise.open("w") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        os.setsid()
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        code = 70
        try:
            answer.write_text(json.dumps(work()))
            code = 0
        except BaseException:  # noqa: BLE001 - of the attack itself: whoever waits reads it
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)
    return _waited(child, answer, noise, time.monotonic() + seconds)


def _waited(child: int, answer: Path, noise: Path, deadline: float) -> tuple[Any, str]:
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        if time.monotonic() > deadline:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None, "hang"
        time.sleep(0.005)
    if os.WIFSIGNALED(status):
        return None, f"crash ({signal.Signals(os.WTERMSIG(status)).name})"
    if answer.exists():
        return json.loads(answer.read_text()), ""
    return None, f"crash (exit {os.waitstatus_to_exitcode(status)}: {noise.read_text()[-300:]})"


def results(directory: Path, ended: Ended) -> dict[str, str]:
    """What a command left and printed, but for what differs from time to time: by file, as text to compare."""
    found = {"printed": TIMED.sub("", ended.printed.replace(str(directory), ""))}
    for path in sorted(directory.rglob("*")):
        if not path.is_symlink() and path.is_file():
            found[str(path.relative_to(directory))] = _content(path, str(directory))
    return found


TIMED = re.compile(r"[0-9.]+ s\b|[0-9.]+ GiB|[0-9,]+ bytes|digest .*|http://\S+")


TIMED_PAGE = re.compile(rb"[0-9.,]+ (s|min|h|MiB|GiB)\b|[0-9]{2}:[0-9]{2} UTC")  # a report's: two in the same minute would hide it


def _content(path: Path, directory: str) -> str:
    data = path.read_bytes()
    try:
        if path.suffix == ".json":
            return json.dumps(_untimed(json.loads(data)), sort_keys=True)
        if path.suffix == ".jsonl":
            return json.dumps([_untimed(json.loads(line)) for line in data.splitlines()], sort_keys=True)
        if path.suffix == ".html":
            data = TIMED_PAGE.sub(b"", data)
        if path.suffix == ".parquet":
            data = str(pq.read_table(pa.BufferReader(data)).to_pylist()).encode()
        if path.suffix == ".html":
            data = TIMED.sub("", data.decode()).encode()
    except (ValueError, OSError, pa.ArrowException, RecursionError):
        pass  # a damaged file that nobody minded: its bytes are compared
    return hashlib.sha256(data.replace(directory.encode(), b"")).hexdigest()


def _untimed(value: Any) -> Any:
    """Without times, memory and digests, which follow from the rest."""
    if isinstance(value, dict):
        return {name: _untimed(field) for name, field in value.items() if not TIMES.search(name)}
    if isinstance(value, list):
        return [_untimed(each) for each in value]
    return "…" if isinstance(value, str) and re.fullmatch("[0-9a-f]{32,64}", value) else value


def judge(ended: dict[str, Any], changed: set[str], promised: dict[str, str], deleted: bool) -> str:
    """Compare what a command did with what it does without the attack."""
    said, message = ended["said"], ended["message"]
    if "Traceback (most recent call last)" in said:
        return "traceback"
    if "internal error" in message or re.search(r"reason=\"?(\w+Error|Exception): ", said):
        return "internal error"
    if ended["code"] != 0:
        lines = [line for line in said.splitlines() if line.startswith("monosem: ")]
        return "refused" if ended["code"] in (1, 2) and len(lines) == 1 and len(message) < 1500 else "no message"
    if REFUSED in ended["printed"]:
        return "refused"
    different = [key for key, value in promised.items() if key not in changed and ended["results"].get(key) != value]
    less = deleted and all(key not in ended["results"] or key == "printed" for key in different)
    return "the same" if not different else "less" if less else f"other results ({', '.join(different)[:200]})"


def run_attack(scratch: Path, state: Path, attack: Callable[[], None], command: Callable[[], Ended]) -> tuple[dict[str, Any] | None, str]:
    """Copy the state of a run, change it, run the command there: in a process of its own."""
    where = Path(tempfile.mkdtemp(dir=scratch))
    here = where / "here"

    def work() -> dict[str, Any]:
        shutil.copytree(state, here, symlinks=True)
        os.chdir(here)
        attack()
        ended = command()
        report = here / "run/report.html"
        if report.is_file() and b"The ratings of this run are not compared: " in report.read_bytes():
            ended = replace(ended, printed=f"{ended.printed}the report says why ratings {REFUSED}")
        return {**asdict(ended), "message": ended.message, "results": results(here, ended) if ended.code == 0 else {}}

    try:
        return in_a_child(work, where)
    finally:
        shutil.rmtree(where, ignore_errors=True)


def counted(outcomes: list[Outcome]) -> Iterator[str]:
    """The table of outcomes, a line a kind of command."""
    kinds = ["refused", "the same", "less", "accepted", "bad"]
    yield "| command | attacks | " + " | ".join(kinds) + " |"
    yield "|---" * (2 + len(kinds)) + "|"
    names = sorted({each.command for each in outcomes})
    for name in [*names, "all"]:
        chosen = [each for each in outcomes if name in (each.command, "all")]
        numbers = [sum(each.what == kind for each in chosen) for kind in kinds[:-1]]
        yield f"| {name} | {len(chosen)} | " + " | ".join(map(str, numbers)) + f" | {sum(not each.good for each in chosen)} |"
