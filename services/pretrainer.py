"""Pretraining of the small subject model as one task, on a GPU where there is one."""

from typing import Any

from sae.devices import device
from sae.execution import Executor, InProcess, PoolOptions
from sae.monitor import Monitor
from sae.pretraining import PretrainingConfig, pretrain
from sae.storage import Place

PRETRAINING_TIMEOUT_SECONDS = 30 * 86_400.0  # a large model may train for weeks; a dead worker is noticed at once all the same


class PretrainingWorker:
    """Trains one subject model."""

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor
        self.device = device()

    def run(self, task: tuple[PretrainingConfig, str]) -> dict[str, Any]:
        """Train the model that `task` describes and write it to its URL."""
        config, output_url = task
        return pretrain(config, Place(output_url), self.device, self._report)

    def _report(self, stage: str, done: int, total: int) -> None:
        self.monitor.progress(f"{stage}/tokens", done, total)


def pretrain_subject(config: PretrainingConfig, output_url: str, machine: dict[str, float], executor: Executor | None = None) -> dict[str, Any]:
    """Train the subject model of `sae.pretraining`; an interrupted one is continued, a finished one returned.

    Args:
        config: of the model and its training.
        output_url: where it goes.
        machine: CPUs and GPUs that there are; all CPUs and one GPU are used.
        executor: does the work (None: this process); its monitor is told of progress.
    """
    executor = executor or InProcess()
    options = PoolOptions(
        num_cpus=max(1, int(machine["cpus"])), num_gpus=min(1, int(machine["gpus"])), task_timeout_seconds=PRETRAINING_TIMEOUT_SECONDS
    )
    [(_, result)] = executor.run(PretrainingWorker, (executor.monitor,), [(config, output_url)], 1, options)
    return dict(result)
