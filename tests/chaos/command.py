"""`monosem run` on the head of a cluster, started again as often as something ended it."""

import re
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import yaml

from tests.chaos.cluster import HostCluster
from tests.chaos.hosts import HostProcess

ROOT = Path(__file__).parents[2]
STAGES = ("start", "harvest", "train", "evaluate", "interpret", "report")
GAVE_UP = 1


class Command:
    """The command of one run.

    Args:
        cluster: where it runs.
        configuration: of the run.
        environment: of the command.
        directory: for its configuration and logs.

    Attributes:
        gave_up: the last line of each start that ended with exit code 1.
    """

    def __init__(self, cluster: HostCluster, configuration: dict, environment: Mapping[str, str], directory: Path) -> None:
        self._cluster, self._environment, self._directory = cluster, environment, directory
        (directory / "run.yaml").write_text(yaml.safe_dump(configuration))
        self._process: HostProcess | None = None
        self._starts = 0
        self.gave_up: list[str] = []
        self.start()

    def start(self) -> None:
        """Start it, for the first time or again."""
        self._starts += 1
        command = [sys.executable, "-m", "jobs", "run", "-c", str(self._directory / "run.yaml"), f"cluster.address={self._cluster.address}"]
        with open(self._log, "wb") as log:
            self._process = self._cluster.head.start(command, self._environment, log, ROOT)

    def finished(self) -> bool:
        """Say whether it ended with success; where it gave up because of a fault, start it again.

        Raises:
            AssertionError: it ended in another way, or said more or less than one line about it.
        """
        code = self._process.poll()
        if code in (None, 0):
            return code == 0
        self.ended_with(code, GAVE_UP)
        self.gave_up.append(self.said().strip().splitlines()[-1])
        self.start()
        return False

    def end_by(self, number: int, code: int, seconds: float) -> float | None:
        """Send a signal, check the end that it brings, and start it again.

        Returns:
            The seconds from signal to end; None where the command had finished before.
        """
        sent = time.monotonic()
        self._process.send_signal(number)
        ended = self._process.wait(seconds)
        if ended == 0:
            return None
        self.ended_with(ended, code)
        took = time.monotonic() - sent
        self.start()
        return took

    def abandon(self) -> None:
        """Kill it where it still runs, so that it does not work beside the next run."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(10)

    def ended_with(self, code: int, expected: int) -> None:
        """Check exit code and last words of a start that has ended."""
        said = self.said()
        assert code == expected, f"exit code {code}, not {expected}:\n{said}"
        if code > 0:
            assert len(re.findall(r"^monosem: ", said, re.MULTILINE)) == 1, said
            assert "Traceback" not in said, said

    def said(self) -> str:
        """What the newest start has written."""
        return self._log.read_text(errors="replace")

    def stage(self) -> str:
        """The stage that the newest start works at, or its last one."""
        stages = re.findall(r"event=stage_started stage=(\w+)", self.said())
        return stages[-1] if stages else STAGES[0]

    @property
    def _log(self) -> Path:
        return self._directory / f"run-{self._starts}.log"
