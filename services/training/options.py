"""Options of training on a cluster: the keys of the section `trainer`."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, PositiveInt, model_validator

from sae.config import Config, Gpus, Labels, Real, refuse_repetition
from sae.training.config import TrainingConfig
from services.training.sinks import SinkName


class TrainerOptions(Config):
    """Options of training: how it is spread over workers, what each occupies, and how often one may fail."""

    num_workers: PositiveInt = Field(1, le=1024, description="training workers")
    min_workers: PositiveInt | None = Field(
        None, le=1024, description="fewest workers to continue with after nodes were lost; null waits for all num_workers"
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
        (), description="tools that get live curves in addition to Prometheus: tensorboard, wandb (extras of this package)"
    )

    @model_validator(mode="after")
    def _fewest_is_no_more_than_all(self) -> Self:
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError(f"min_workers {self.min_workers} is more than num_workers {self.num_workers}: lower it")
        return self

    @property
    def shared(self) -> Literal["data", "features"] | None:
        """Name what all workers share of every step; None: nothing, each trains whole dictionaries."""
        return None if self.parallel == "dictionaries" or self.num_workers == 1 else self.parallel


def worker_count(config: TrainingConfig, options: TrainerOptions) -> int:
    """Count the workers of a training."""
    return options.num_workers if options.shared else min(options.num_workers, len(config.dictionaries))
