"""Live curves in other tools: log rows of training to TensorBoard or Weights & Biases, where the user asks for it.

TensorBoard: `<output>/tensorboard/<dictionary>/events.out.tfevents.<first step>.monosem`, each put whole again every few seconds, so that an
object store (which cannot append) serves as well as a disk; `tensorboard --logdir <output>/tensorboard` shows them, and reads `s3://` too.
A training that resumes begins another file, which tells TensorBoard to forget the steps that are done again.

Weights & Biases: one run a dictionary in the project `monosem`; a resumed training goes on with it. Whether it is sent or kept is that
tool's own business (`WANDB_API_KEY`, `WANDB_MODE=offline`); without either there is nowhere to send it to, which is said before training.
"""

import hashlib
import importlib
import io
import netrc
import os
import tempfile
import time
from collections.abc import Iterator
from typing import Any, Literal, Protocol

from sae.errors import InputError
from sae.storage import Place

SinkName = Literal["tensorboard", "wandb"]
SECONDS_BETWEEN_PUTS = 10.0
WANDB_PROJECT = "monosem"
WANDB_HOST = "api.wandb.ai"


class Sink(Protocol):
    """Somewhere log rows and events go."""

    def record(self, dictionary: str, row: dict[str, Any]) -> None:
        """Take a log row or an event."""

    def close(self) -> None:
        """Write what is still held."""


def check_sinks(names: tuple[SinkName, ...], output: Place) -> None:
    """Say what is missing before time is spent.

    Raises:
        InputError: a package that is not installed, or a place that its tool cannot write to.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError:
            raise InputError(f"trainer.log_to names {name}, which is not installed: pip install 'monosem[{name}]', or leave it out") from None
    if "wandb" in names:
        _check_wandb(output)


def open_sinks(names: tuple[SinkName, ...], output: Place) -> list[Sink]:
    """The sinks of one training process.

    Raises:
        InputError: as `check_sinks`.
    """
    check_sinks(names, output)
    return [TensorBoardSink(output.child("tensorboard")) if name == "tensorboard" else WandbSink(output) for name in names]


def scalars(row: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers of a log row or an event by name, nested ones as `losses/total`."""
    for key, value in row.items():
        if key in ("step", "vectors", "event", "density_histogram"):
            continue
        if isinstance(value, dict):
            yield from ((f"{key}/{name}", number) for name, number in scalars(value))
        elif isinstance(value, int | float):
            yield key if "event" not in row else f"{row['event']}/{key}", float(value)


class TensorBoardSink:
    """TensorBoard event files below a place.

    Args:
        place: one directory for each dictionary goes there.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self._files: dict[str, _EventFile] = {}

    def record(self, dictionary: str, row: dict[str, Any]) -> None:
        """Add the row's numbers at its step."""
        if dictionary not in self._files:
            self._files[dictionary] = _EventFile(self.place.child(dictionary), row["step"])
        self._files[dictionary].add(row["step"], dict(scalars(row)))

    def close(self) -> None:
        """Put every file a last time."""
        for file in self._files.values():
            file.put()


class _EventFile:
    def __init__(self, place: Place, first_step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = Event, Summary
        self.place, self.key = place, f"events.out.tfevents.{first_step:010d}.monosem"
        self._buffer = io.BytesIO()
        self._writer = RecordWriter(self._buffer)
        self._last_put = -float("inf")
        self._write(file_version="brain.Event:2", step=first_step)
        self._write(session_log=SessionLog(status=SessionLog.START), step=first_step)

    def add(self, step: int, numbers: dict[str, float]) -> None:
        values = [self._summary.Value(tag=name, simple_value=number) for name, number in numbers.items()]
        self._write(summary=self._summary(value=values), step=step)
        if time.monotonic() - self._last_put >= SECONDS_BETWEEN_PUTS:
            self.put()

    def put(self) -> None:
        self.place.put(self.key, self._buffer.getvalue())
        self._last_put = time.monotonic()

    def _write(self, **fields: Any) -> None:
        self._writer.write(self._event(wall_time=time.time(), **fields).SerializeToString())


class WandbSink:
    """Weights & Biases runs, one a dictionary.

    Args:
        output: of the training; a local one also holds the runs kept offline.
    """

    def __init__(self, output: Place) -> None:
        self.output = output
        self._directory = os.fspath(output.local_path() or tempfile.mkdtemp(prefix="monosem-wandb"))
        self._runs: dict[str, Any] = {}

    def record(self, dictionary: str, row: dict[str, Any]) -> None:
        """Log the row's numbers at its step."""
        if dictionary not in self._runs:
            self._runs[dictionary] = self._begin(dictionary)
        # Events come at the step of a row, and wandb takes no step twice: both carry it as a number of their own.
        self._runs[dictionary].log({"step": row["step"], "vectors": row["vectors"], **dict(scalars(row))})

    def close(self) -> None:
        """Finish the runs: what is still under way is sent."""
        for run in self._runs.values():
            run.finish()

    def _begin(self, dictionary: str) -> Any:
        import wandb

        os.makedirs(self._directory, exist_ok=True)
        identity = hashlib.sha256(f"{self.output.url}/{dictionary}".encode()).hexdigest()[:16]
        settings = wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True)
        run = wandb.init(
            project=WANDB_PROJECT, name=dictionary, id=identity, resume="allow", dir=self._directory, reinit="create_new", settings=settings
        )
        run.define_metric("*", step_metric="step")
        return run


def _check_wandb(output: Place) -> None:
    mode = os.environ.get("WANDB_MODE", "online")
    if mode == "offline" and output.local_path() is None:
        raise InputError(
            f"WANDB_MODE=offline keeps runs on a disk, and {output.url} is none: choose a local output, log to tensorboard, or send the runs"
        )
    if mode == "online" and not os.environ.get("WANDB_API_KEY") and not _known_to_netrc(WANDB_HOST):
        raise InputError("trainer.log_to names wandb, but there is no WANDB_API_KEY: set it, run `wandb login`, or set WANDB_MODE=offline")


def _known_to_netrc(host: str) -> bool:
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
