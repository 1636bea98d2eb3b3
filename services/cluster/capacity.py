"""Estimate of a run on a cluster: hours, bytes, requests and money, from amounts and rates. Arithmetic only, no clock and no cluster.

A stage's resources work beside each other, so it takes as long as the slowest of them and the start of its workers: that resource is its limit.
"""

from dataclasses import dataclass, field

from pydantic import Field

from sae.config import Config, Real

HOUR = 3600.0
DOWNLOAD_BYTES = 8 * 2**20  # one ranged GET (sae.store.download.RANGE_BYTES)


class PlanConfig(Config):
    """Prices and bandwidths of a cluster. All money in one currency; 0 costs nothing."""

    gpu_hour: Real = Field(0.0, ge=0, le=10**6, description="price of a GPU for an hour, without its CPUs")
    cpu_hour: Real = Field(0.0, ge=0, le=10**6, description="price of a CPU for an hour")
    gb_month: Real = Field(0.0, ge=0, le=10**6, description="price of a gigabyte in the store for a month")
    months: Real = Field(1.0, ge=0, le=1200, description="months that the store is kept")
    thousand_puts: Real = Field(0.0, ge=0, le=10**6, description="price of 1,000 requests that write or list")
    thousand_gets: Real = Field(0.0, ge=0, le=10**6, description="price of 1,000 requests that read")
    worker_gbit: Real | None = Field(None, gt=0, le=10**6, description="Gbit/s between one worker and the store; null: not a limit")
    store_gbit: Real | None = Field(None, gt=0, le=10**6, description="Gbit/s that the store takes or gives in all; null: not a limit")


@dataclass(frozen=True)
class Crew:
    """The workers of a stage, and what each occupies."""

    workers: int
    cpus: float = 1.0
    gpus: float = 0.0


@dataclass(frozen=True)
class Amounts:
    """Workload of a run: what it reads and writes, counted from its configuration.

    Attributes:
        tokens: of the training split.
        held_out_tokens: that are evaluated.
        vectors: activations at one hookpoint that training reads in one epoch.
        epochs: of training.
        store_bytes: of all objects of the store.
        train_bytes: of the shards of the hookpoints that training reads, once.
        objects: of the store.
        shards: of each hookpoint.
        read_tokens: that the interpretation reads.
        features: that it explains, over all sources.
    """

    tokens: int
    held_out_tokens: int
    vectors: int
    epochs: int
    store_bytes: int
    train_bytes: int
    objects: int
    shards: int
    read_tokens: int
    features: int


@dataclass(frozen=True)
class Rates:
    """Throughput of one worker of each stage while the others work next to it, and its time to start.

    Attributes:
        tokenise: tokens of text, on all cores of the driver.
        harvest: tokens through the subject model into the store's format.
        train: vectors through all the dictionaries that one worker trains.
        evaluate: held-out tokens through clean, ablated and spliced passes of all dictionaries.
        read: tokens through the model and all sources of the interpretation.
        explain: features explained and scored.
        start_seconds: from asking for a worker to its first task.
        train_start_seconds: the same of Ray Train, its end included.
        train_extra_seconds: that the first steps take longer than the others, while many features fire.
        cluster_start_seconds: until a cluster of the job's own is there.
        report_seconds: of gathering and drawing.
    """

    tokenise: float
    harvest: float
    train: float
    evaluate: float
    read: float
    explain: float
    start_seconds: float
    train_start_seconds: float
    train_extra_seconds: float = 0.0
    cluster_start_seconds: float = 0.0
    report_seconds: float = 0.0


@dataclass(frozen=True)
class Stage:
    """One stage: how long its workers start, how long each of its resources is at work, and who is occupied meanwhile."""

    name: str
    crew: Crew
    start_seconds: float
    limits: dict[str, float]
    rate: str = ""
    """The figure the main limit comes from, for people."""

    @property
    def seconds(self) -> float:
        """Wall time."""
        return self.start_seconds + max(self.limits.values())

    @property
    def limit(self) -> str:
        """The bottleneck: the resource that limits this stage."""
        slowest = max(self.limits, key=self.limits.__getitem__)
        return slowest if self.limits[slowest] >= self.start_seconds else "the start of its workers"


@dataclass(frozen=True)
class Costs:
    """Money, by what it is paid for."""

    gpus: float
    cpus: float
    storage: float
    requests: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.gpus + self.cpus + self.storage + self.requests


@dataclass(frozen=True)
class Estimate:
    """A whole run."""

    stages: list[Stage]
    puts: int
    gets: int
    costs: Costs = field(default_factory=lambda: Costs(0, 0, 0, 0))

    @property
    def seconds(self) -> float:
        """Wall time of all stages, one after the other."""
        return sum(stage.seconds for stage in self.stages)


def estimate(amounts: Amounts, rates: Rates, crews: dict[str, Crew], parallel: bool, options: PlanConfig) -> Estimate:
    """Estimate the cost of a run.

    Args:
        amounts: what is to be done.
        rates: of one worker of each crew.
        crews: of `harvest`, `train`, `evaluate` and `interpret`.
        parallel: training's workers share every step, so that their rates add up; else each trains dictionaries of its own.
        options: prices and bandwidths.
    """
    harvest, train, evaluate, interpret = (crews[name] for name in ("harvest", "train", "evaluate", "interpret"))
    harvesters = min(harvest.workers, amounts.shards)
    trained = amounts.vectors * amounts.epochs
    train_readers = train.workers if not parallel else 1  # who shares a step reads his own rows; else everyone reads everything
    read_bytes = amounts.train_bytes * amounts.epochs * train_readers
    stages = [
        Stage(
            "tokenise", Crew(1), rates.cluster_start_seconds,
            {"tokenising on the driver": (amounts.tokens + amounts.held_out_tokens) / rates.tokenise}, f"{rates.tokenise:,.0f} tokens/s",
        ),
        Stage(
            "harvest", harvest, 2 * rates.start_seconds,  # one worker looks at the model first
            {"the subject model": amounts.tokens / (rates.harvest * harvesters), **_network("uploading", amounts.store_bytes, harvesters, options)},
            f"{rates.harvest:,.0f} tokens/s a worker",
        ),
        Stage(
            "train", train, rates.train_start_seconds + rates.train_extra_seconds,
            {"training steps": trained / rates.train / (train.workers if parallel else 1), **_network("reading", read_bytes, train.workers, options)},
            f"{rates.train:,.0f} vectors/s a worker",
        ),
        Stage(
            "evaluate", evaluate, rates.start_seconds, {"the subject model": amounts.held_out_tokens / (rates.evaluate * evaluate.workers)},
            f"{rates.evaluate:,.0f} tokens/s a worker",
        ),
        Stage(
            "interpret", interpret, 2 * rates.start_seconds,  # two pools, one after the other
            {"reading and explaining": (amounts.read_tokens / rates.read + amounts.features / rates.explain) / interpret.workers},
            f"{rates.read:,.0f} tokens/s, {rates.explain:,.1f} features/s a worker",
        ),
        Stage("report", Crew(1), 0.0, {"drawing on the driver": rates.report_seconds}),
    ]  # fmt: skip
    puts, gets = amounts.objects, amounts.shards + -(-read_bytes // DOWNLOAD_BYTES)
    return Estimate(stages, puts, gets, _costs(stages, amounts, puts, gets, options))


def _network(what: str, num_bytes: float, workers: int, options: PlanConfig) -> dict[str, float]:
    limits = {}
    if options.worker_gbit is not None:
        limits[f"{what} from each worker" if what == "uploading" else f"{what} by each worker"] = 8 * num_bytes / 1e9 / options.worker_gbit / workers
    if options.store_gbit is not None:
        limits[f"{what}, all of the store's bandwidth"] = 8 * num_bytes / 1e9 / options.store_gbit
    return limits


def _costs(stages: list[Stage], amounts: Amounts, puts: int, gets: int, options: PlanConfig) -> Costs:
    gpu_hours = sum(stage.seconds / HOUR * stage.crew.workers * stage.crew.gpus for stage in stages)
    cpu_hours = sum(stage.seconds / HOUR * stage.crew.workers * stage.crew.cpus for stage in stages)
    return Costs(
        gpus=gpu_hours * options.gpu_hour,
        cpus=cpu_hours * options.cpu_hour,
        storage=amounts.store_bytes / 1e9 * options.gb_month * options.months,
        requests=(puts * options.thousand_puts + gets * options.thousand_gets) / 1000,
    )
