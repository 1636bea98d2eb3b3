"""The attacks: every reader, every file that it reads, every kind of damage, with digests as they were and with digests made to agree."""

import contextlib
import importlib
import random
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.attacks.damage import Damage, damages
from tests.attacks.digests import Chain
from tests.attacks.outcomes import Outcome, in_a_child, judge, run_attack
from tests.attacks.readers import READERS, Reader
from tests.attacks.whole_run import make_runs

RESEALED = (
    "a value altered",
    "a field altered or gone",
    "a number of its metadata",
    "a bit flipped",
    "content of",
    "cut",
    "padded",
    "a list around",
    "nested",
)


@dataclass(frozen=True)
class Attack:
    """One change of one file, before one command.

    Attributes:
        reader: the command.
        file: that is changed, relative to the run's surroundings.
        damage: what is done to it.
        resealed: whether all digests are made to agree afterwards.
    """

    reader: Reader
    file: str
    damage: Damage
    resealed: bool


def all_attacks(states: dict[str, Path], seed: int, most: int) -> Iterator[Attack]:
    """Every attack, with `most` altered values or numbers of each file."""
    for number, reader in enumerate(READERS):
        state = states[reader.state]
        for pattern in reader.reads:
            paths = sorted(path for path in state.glob(pattern) if path.is_file())
            assert paths, f"{reader.name} reads {pattern}, and there is none in {reader.state}"
            for path in paths[:4]:
                file = str(path.relative_to(state))
                draw = random.Random(f"{seed} {number} {file}")
                for damage in damages(path, _others(state, path), draw, most):
                    yield Attack(reader, file, damage, resealed=False)
                    if damage.kind.startswith(RESEALED) and file.startswith("run/"):
                        yield Attack(reader, file, damage, resealed=True)


def _others(state: Path, path: Path) -> list[Path]:
    """Files that could be taken for this one: one of the same name elsewhere, and a neighbour of the same kind."""
    namesakes = [each for each in sorted(state.rglob(path.name)) if each != path and each.is_file()]
    neighbours = [each for each in sorted(path.parent.glob(f"*{path.suffix}")) if each != path]
    return [each.relative_to(state) for each in [*namesakes[-1:], *neighbours[:1]]]


IMPORTED = ("sae", "services", "jobs", "transformers", "tokenizers", "sklearn", "scipy", "jinja2", "starlette", "uvicorn")


def prepared(root: Path) -> dict[str, Path]:
    """The states of a run, made below `root`.

    They are made in a process of their own: the threads that it starts would be missing in the processes of the attacks. What it imported is
    imported here, so that no attack has to.
    """

    def make() -> Any:
        states = {name: str(path) for name, path in make_runs(root).items()}
        return states, [name for name in sys.modules if name.partition(".")[0] in IMPORTED]

    made, how = in_a_child(make, root, seconds=600)
    assert made is not None, how
    for name in made[1]:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    return {name: Path(path) for name, path in made[0].items()}


class Campaign:
    """Runs attacks, each in a process of its own.

    Args:
        states: the run as each stage found it.
        scratch: for copies.
    """

    def __init__(self, states: dict[str, Path], scratch: Path) -> None:
        self.states, self.scratch = states, scratch
        self._one_asks = threading.Lock()
        self._runs: dict[Reader, list[dict[str, str]]] = {}

    def promised(self, reader: Reader, times: int) -> dict[str, str]:
        """What the command leaves where nothing is wrong, as far as it is the same so many times."""
        with self._one_asks:
            runs = self._runs.setdefault(reader, [])
            while len(runs) < times:
                runs.append(self._undisturbed(reader))
            return {key: value for key, value in runs[0].items() if all(run.get(key) == value for run in runs)}

    def _undisturbed(self, reader: Reader) -> dict[str, str]:
        ended, how = run_attack(self.scratch, self.states[reader.state], lambda: None, reader.run)
        assert ended is not None, f"{reader.name}: {how}"
        assert ended["code"] == 0, f"{reader.name}: {ended['said'][-2000:]}"
        found: dict[str, str] = ended["results"]
        return found

    def outcome(self, attack: Attack) -> Outcome:
        """Do it."""
        reader, began = attack.reader, time.monotonic()

        def change() -> None:
            path = Path.cwd() / attack.file
            chain = Chain(Path.cwd() / "run") if attack.resealed else None
            attack.damage.apply(path)
            if chain:
                chain.reseal(path)

        ended, how = run_attack(self.scratch, self.states[reader.state], change, reader.run)
        if ended is None:
            what, message = how, ""
        else:
            what, message = self._judged(attack, ended), ended["message"]
        return Outcome(reader.name, attack.file, attack.damage.kind, attack.resealed, what, message, time.monotonic() - began)

    def _judged(self, attack: Attack, ended: dict[str, Any]) -> str:
        """The outcome; the undisturbed command runs once or twice only where its results are needed for that."""
        changed = {attack.file, attack.damage.also}

        def judged(times: int) -> str:
            return judge(ended, changed, self.promised(attack.reader, times) if times else {}, attack.damage.kind == "deleted")

        what = judged(0)
        if what == "the same" and (attack.resealed or attack.file in attack.reader.inputs):
            return "accepted"
        if ended["code"] == 0 and what == "the same" and (what := judged(1)) != "the same":
            return judged(2)
        return what

    def outcomes(self, attacks: list[Attack], processes: int) -> Iterator[Outcome]:
        """Do them all, some at once, in order."""
        with ThreadPoolExecutor(processes) as threads:
            yield from threads.map(self.outcome, attacks)
