"""Configuration of training: one dictionary, a grid of dictionaries, and the pass over a store that trains them.

An entry with a `grid` stands for every combination of its values::

    - {name: topk, sae: {architecture: topk}, grid: {sae.k: [16, 32], sae.d_sae: [4096, 8192], seed: [0, 1]}}

becomes `topk-k16-d4096-s0`, `topk-k16-d4096-s1`, … in the order of the grid; the last key varies fastest.
"""

import itertools
from typing import Any, Literal, Self

from pydantic import Field, PositiveInt, field_validator, model_validator

from sae.architectures.config import ReluConfig, SAEConfig, TopKConfig
from sae.architectures.registry import architecture
from sae.config import WEEK, Config, Name, Real, Seed, shown
from sae.training.optimization import OptimizerConfig
from sae.training.resampling import ResamplingConfig

STATE_DIRECTORY = "state"
SEARCH_DIRECTORY = "search"
RESERVED_NAMES = (STATE_DIRECTORY, SEARCH_DIRECTORY)


COEFFICIENTS = ("l1_coefficient", "l0_coefficient")
RESAMPLED_WEIGHTS = {"W_enc", "b_enc", "W_dec"}


class TargetL0Config(Config):
    """A search, before training, for the sparsity coefficient that gives a wanted L0."""

    l0: Real = Field(gt=0, le=2**24, description="the L0 that is wanted, in features per vector")
    tolerance: Real = Field(0.1, gt=0, lt=1, description="largest accepted |L0 / wanted - 1| of the last pilot run")
    pilot_fraction: Real = Field(0.25, gt=0, le=1, description="steps of each pilot run, as a fraction of the run's; they use its first batches")
    pilots: PositiveInt = Field(4, ge=2, le=64, description="pilot runs of one round, trained side by side from one reader")
    max_rounds: PositiveInt = Field(4, le=100, description="rounds after which the search gives up")


class DictionaryConfig(Config):
    """One dictionary to train."""

    name: str = Field(max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="its directory below the run's `dictionaries`")
    sae: SAEConfig = Field(description="architecture and size")
    optimizer: OptimizerConfig = Field(OptimizerConfig(), description="Adam and its schedule")
    sparsity_warm_up_fraction: Real = Field(0.0, ge=0, le=1, description="fraction of the steps over which the sparsity term rises from 0")
    resampling: ResamplingConfig | None = Field(None, description="when dead features are resampled; null: never")
    seed: Seed = Field(0, description="seed of initial weights and of resampling")
    target_hookpoint: Name | None = Field(None, description="hookpoint to reconstruct, which makes it a transcoder; null: the one that is encoded")
    ema_decay: Real | None = Field(None, gt=0, lt=1, description="decay a step of the average of weights that is saved; null saves the last weights")
    target_l0: TargetL0Config | None = Field(None, description="search the sparsity coefficient that gives this L0; null takes it as it is")

    encode_dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="precision of the product that finds which features may fire; float32 decides in any case"
    )

    @model_validator(mode="after")
    def _has_what_is_to_be_changed(self) -> Self:
        if self.resampling is not None and not can_be_resampled(self.sae.architecture):
            raise ValueError(f"resampling sets W_enc, b_enc and W_dec, which {self.sae.architecture!r} has not all: set resampling to null")
        if self.target_l0 is not None and self.coefficient is None:
            raise ValueError(f"target_l0 needs a sparsity coefficient, which {self.sae.architecture!r} has not: leave it out, or choose k")
        if self.target_l0 is not None and self.target_l0.l0 > self.sae.d_sae:
            raise ValueError(
                f"target_l0.l0 {self.target_l0.l0:g} is more than sae.d_sae {self.sae.d_sae:,}: more features than there are cannot be active. "
                "Lower target_l0.l0, or raise sae.d_sae"
            )
        return self

    @property
    def coefficient(self) -> str | None:
        """The name of the architecture's sparsity coefficient, if it has one."""
        return next((name for name in COEFFICIENTS if name in type(self.sae).model_fields), None)


def can_be_resampled(name: str) -> bool:
    """Say whether an architecture has the weights that resampling sets."""
    return set(architecture(name).feature_axes) >= RESAMPLED_WEIGHTS


MAX_DICTIONARIES = 256
GRID = "grid"
SHORT_NAMES = {"sae.d_sae": "d", "sae.k": "k", "seed": "s", "optimizer.learning_rate": "lr", "target_l0.l0": "l0", "sae.architecture": ""}


def expand_grids(entries: list[Any]) -> list[Any]:
    """Replace each entry that has a `grid` by its combinations; others stay as they are.

    Raises:
        ValueError: a grid that is no mapping of keys to lists of values, or is too large.
    """
    expanded: list[Any] = []
    for entry in entries:
        expanded += _combinations(entry) if isinstance(entry, dict) and GRID in entry else [entry]
    return expanded


def _combinations(entry: dict[str, Any]) -> list[dict[str, Any]]:
    grid = entry[GRID]
    if not isinstance(grid, dict) or not grid or not all(isinstance(values, list) and values for values in grid.values()):
        raise ValueError(f"grid: expected keys with lists of values, such as {{sae.k: [16, 32]}}, found {shown(grid)}")
    count = 1
    for values in grid.values():
        count *= len(values)
    if count > MAX_DICTIONARIES:
        raise ValueError(f"grid: {count:,} combinations are more than {MAX_DICTIONARIES}: train them in several runs")
    base = {key: value for key, value in entry.items() if key != GRID}
    return [_combination(base, dict(zip(grid, values, strict=True))) for values in itertools.product(*grid.values())]


def _combination(base: dict[str, Any], chosen: dict[str, Any]) -> dict[str, Any]:
    entry = dict(base)
    for path, value in chosen.items():
        _set(entry, path, value)
    sae = entry.get("sae")
    first = base.get("name") or (sae.get("architecture") if isinstance(sae, dict) and "sae.architecture" not in chosen else None)
    parts = [_short(path, value) for path, value in chosen.items()]
    entry["name"] = "-".join([first, *parts] if first else parts)
    return entry


def _set(entry: dict[str, Any], path: str, value: Any) -> None:
    *sections, last = path.split(".")
    node = entry
    for section in sections:
        below = node.get(section)
        if below is not None and not isinstance(below, dict):
            raise ValueError(f"grid: {path!r} leads through {section!r}, which is {shown(below)} and has no keys")
        node[section] = dict(below or {})  # its own copy: combinations share nothing
        node = node[section]
    node[last] = value


def _short(path: str, value: Any) -> str:
    key = SHORT_NAMES.get(path, path.rsplit(".", 1)[-1].removesuffix("_coefficient"))
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return key + ("-" if key[-1:].isdigit() else "") + text.replace("+", "").replace(" ", "")


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
