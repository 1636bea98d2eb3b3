"""How training is spread over a cluster; apart from `services.trainer`, since only who trains should wait for Ray Train to be imported."""

from typing import Annotated, Literal, Self

import ray
from pydantic import AfterValidator, Field, PositiveInt, model_validator

from sae.config import Config, Gpus, Labels, Real, refuse_repetition
from sae.errors import InputError
from sae.training.config import TrainingConfig
from services.overlap import OVERLAPPED_CPU_SHARE
from services.training_sinks import SinkName


class TrainerOptions(Config):
    """How training is spread over workers, what each occupies, and how often one may fail."""

    num_workers: PositiveInt = Field(1, le=1024, description="training workers")
    min_workers: PositiveInt | None = Field(
        None, le=1024, description="fewest workers to go on with where nodes are lost; null waits for all num_workers"
    )
    parallel: Literal["dictionaries", "data", "features"] = Field(
        "dictionaries",
        description="what workers share: dictionaries are dealt out to them whole; data: the rows of each batch; features: each dictionary's d_sae",
    )
    num_cpus: Real = Field(
        0.0, ge=0, le=1024, description="CPUs (as Ray counts them) of a worker, rounded up also its threads; 0 shares out a node's"
    )
    num_gpus: Gpus = Field(0.0, description="GPUs of a worker; 0 trains on the CPU")
    labels: Labels = Field({}, description="labels that a Ray node must have to be given a worker, as a node group's")
    max_failures: int = Field(3, ge=0, le=1000, description="restarts after a worker died or failed")
    log_to: Annotated[tuple[SinkName, ...], AfterValidator(refuse_repetition)] = Field(
        (), description="tools that get live curves beside Prometheus: tensorboard, wandb (extras of this package)"
    )

    @model_validator(mode="after")
    def _fewest_is_no_more_than_all(self) -> Self:
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError(f"min_workers {self.min_workers} is more than num_workers {self.num_workers}: lower it")
        return self

    @property
    def shared(self) -> Literal["data", "features"] | None:
        """What all workers share of every step; None: nothing, each trains whole dictionaries."""
        return None if self.parallel == "dictionaries" or self.num_workers == 1 else self.parallel


def worker_count(config: TrainingConfig, options: TrainerOptions) -> int:
    """How many workers a training takes."""
    return options.num_workers if options.shared else min(options.num_workers, len(config.dictionaries))


def reserved_cpus(options: TrainerOptions, num_workers: int, overlapped: bool) -> float:
    """CPUs, as Ray counts them, that each worker reserves: half of a shared-out node where a harvest runs beside it."""
    return worker_cpus(options, num_workers) * (OVERLAPPED_CPU_SHARE if overlapped and not options.num_cpus else 1.0)


def worker_cpus(options: TrainerOptions, num_workers: int) -> float:
    """CPUs of each worker where nothing runs beside it."""
    return options.num_cpus or max(1.0, _largest_node_cpus(options.labels) // num_workers)


def _largest_node_cpus(labels: dict[str, str]) -> float:
    nodes = [node for node in ray.nodes() if node["Alive"] and labels.items() <= node.get("Labels", {}).items()]
    largest = max((node["Resources"].get("CPU", 0.0) for node in nodes), default=0.0)
    if not largest:
        among = f" labelled {', '.join(f'{key}={value}' for key, value in labels.items())}" if labels else ""
        raise InputError(f"there is no node{among} yet whose CPUs training could share out (a group scaled to zero?): set trainer.num_cpus")
    return float(largest)
