"""Pretraining of the small subject model as one Ray actor, on a GPU where the cluster has one."""

from typing import Any

import ray
import torch

from sae.monitor import Monitor
from sae.pretraining import PretrainingConfig, pretrain
from sae.storage import Place
from services.worker_pool import PoolOptions, run_pool

PRETRAINING_TIMEOUT_SECONDS = 30 * 86_400.0  # a large model may train for weeks; a dead worker is noticed at once all the same


class PretrainingWorker:
    """Trains one subject model."""

    def __init__(self, monitor: Monitor | None) -> None:
        self.monitor = monitor
        self.device = "cuda" if torch.cuda.is_available() else "cpu"

    def run(self, task: tuple[PretrainingConfig, str]) -> dict[str, Any]:
        """Train the model that `task` describes and write it to its URL."""
        config, output_url = task
        return pretrain(config, Place(output_url), self.device, self._report)

    def _report(self, stage: str, done: int, total: int) -> None:
        if self.monitor is not None:
            self.monitor.progress(f"{stage}/tokens", done, total)


def pretrain_subject(config: PretrainingConfig, output_url: str, monitor: Monitor | None = None) -> dict[str, Any]:
    """Train the subject model of `sae.pretraining` on the cluster; a finished or interrupted one is taken up where it is."""
    resources = ray.cluster_resources()
    options = PoolOptions(
        num_cpus=max(1, int(resources.get("CPU", 1))), num_gpus=min(1, int(resources.get("GPU", 0))), task_timeout_seconds=PRETRAINING_TIMEOUT_SECONDS
    )
    [(_, result)] = run_pool(PretrainingWorker, (monitor,), [(config, output_url)], num_workers=1, options=options, monitor=monitor)
    return dict(result)
