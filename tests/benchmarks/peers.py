"""The door to the peers: SAELens, dictionary_learning and sparsify live in `.venv-peers` (`make peers`) and answer from a process of their own.

A peer script is a module of this repository that the peers' interpreter runs; it hands one function to `serve`. Arguments and answers
are JSON, so tensors travel as files.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[2]
INTERPRETER = ROOT / ".venv-peers" / "bin" / "python"
MARK = "peer answers: "  # libraries print what they like; an answer is the line that begins with this


class Skipped(Exception):  # noqa: N818 - a reason, not an error
    """Raised where something cannot run here; the message is the reason."""


class Peer:
    """A running peer script, asked as often as one likes.

    Args:
        module: of the script, e.g. `tests.benchmarks.peer_train_step`.

    Raises:
        Skipped: the peers are not installed.
    """

    def __init__(self, module: str) -> None:
        if not INTERPRETER.exists():
            raise Skipped(f"the peers' environment {INTERPRETER} does not exist: run make peers")
        self.module = module
        self.process = subprocess.Popen([INTERPRETER, "-m", module], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, **arguments: Any) -> dict[str, Any]:
        """What the script's function returns for these arguments."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(arguments) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith(MARK):
                answer: dict[str, Any] = json.loads(line.removeprefix(MARK))
                return answer
        raise RuntimeError(f"peer script {self.module} ended with exit code {self.process.wait()} instead of an answer; its stderr says why")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()  # closes its standard input, at which it ends


def run_peer(module: str, **arguments: Any) -> dict[str, Any]:
    """One answer of a peer script, in a fresh process.

    Raises:
        Skipped: the peers are not installed.
    """
    with Peer(module) as peer:
        return peer.ask(**arguments)


def serve(function: Callable[..., dict[str, Any]]) -> None:
    """The other side, in a peer script: answer every line of standard input until it ends."""
    for line in sys.stdin:
        print(f"{MARK}{json.dumps(function(**json.loads(line)))}", flush=True)
