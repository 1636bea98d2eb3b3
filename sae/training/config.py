"""What one pass over a store trains, as a configuration says it."""

from typing import Any

from pydantic import Field, PositiveInt, field_validator

from sae.architectures.config import ReluConfig, TopKConfig
from sae.config import WEEK, Config, Real, Seed
from sae.training.dictionary_config import DictionaryConfig
from sae.training.grid import MAX_DICTIONARIES, expand_grids
from sae.training.resampling import ResamplingConfig

STATE_DIRECTORY = "state"
SEARCH_DIRECTORY = "search"
RESERVED_NAMES = (STATE_DIRECTORY, SEARCH_DIRECTORY)


class TrainingConfig(Config):
    """One pass over a store and the dictionaries trained in it."""

    dictionaries: list[DictionaryConfig] = Field(
        [
            DictionaryConfig(name="topk", sae=TopKConfig(d_sae=4096, k=20)),
            DictionaryConfig(name="relu", sae=ReluConfig(d_sae=4096), resampling=ResamplingConfig()),
        ],
        min_length=1,
        description="what to train, all from the same batches; an entry with `grid: {sae.k: [16, 32], seed: [0, 1]}` stands for all combinations",
    )
    batch_size: PositiveInt = Field(2048, le=2**22, description="vectors a step")
    epochs: PositiveInt = Field(1, le=10_000, description="passes over the store; the paper never repeats a vector")
    seed: Seed = Field(0, description="seed of the order of batches")
    log_every: PositiveInt = Field(20, le=10**6, description="steps a log row")
    checkpoint_seconds: Real = Field(30.0, ge=0, le=WEEK, description="seconds between saved training states: what a killed run loses at most")
    checkpoints_kept: PositiveInt = Field(
        2, le=100, description="training states kept of each dictionary; one that is damaged gives way to the one before it"
    )
    dead_window_vectors: PositiveInt = Field(
        500_000, le=10**12, description="a feature that is silent for this many vectors counts as dead, in the log and for auxiliary losses"
    )

    @field_validator("dictionaries", mode="before")
    @classmethod
    def _grids_expanded(cls, entries: Any) -> Any:
        return expand_grids(entries) if isinstance(entries, list) else entries

    @field_validator("dictionaries")
    @classmethod
    def _names_differ(cls, dictionaries: list[DictionaryConfig]) -> list[DictionaryConfig]:
        names = [dictionary.name for dictionary in dictionaries]
        if len(names) > MAX_DICTIONARIES:
            raise ValueError(f"{len(names)} dictionaries are more than {MAX_DICTIONARIES}: train them in several runs")
        twice = sorted({name for name in names if names.count(name) > 1 or name in RESERVED_NAMES})
        if twice:
            raise ValueError(f"each dictionary needs its own name, other than {' and '.join(RESERVED_NAMES)}; found {', '.join(twice)}")
        return dictionaries
