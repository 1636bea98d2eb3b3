"""Configuration of each architecture; the key `architecture` chooses among them and those that `sae.register` adds."""

import importlib.metadata
import json
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, PositiveInt, Tag, ValidationInfo, WithJsonSchema, model_validator

from sae.config import BUILT_IN_FAMILY, REGISTERED_FAMILY, Config, Real
from sae.errors import ConfigError

BUILT_IN = ("relu", "relu_april", "tied", "p_annealing", "gated", "topk", "batch_topk", "matryoshka", "jumprelu")
MAX_FEATURES = 2**24
MAX_COEFFICIENT = 10**6


class ReluConfig(Config):
    """The ReLU autoencoder with an L1 penalty of Towards Monosemanticity."""

    architecture: Literal["relu"] = "relu"
    d_sae: PositiveInt = Field(4096, le=MAX_FEATURES, description="number of features")
    l1_coefficient: Real = Field(
        0.01,
        ge=0,
        le=MAX_COEFFICIENT,
        description="weight of the sum of a vector's features against the mean over d_in of its squared error, both in scaled units",
    )
    start: Literal["kaiming", "transposed"] = Field(
        "kaiming", description="initial weights: as the paper's, or the encoder a tenth of the decoder transposed, which reaches more in short runs"
    )


class TopKConfig(Config):
    """The TopK autoencoder of Gao et al. with the AuxK loss against dead features."""

    architecture: Literal["topk"] = "topk"
    d_sae: PositiveInt = Field(4096, le=MAX_FEATURES, description="number of features")
    k: PositiveInt = Field(20, le=MAX_FEATURES, description="features kept per vector")
    aux_k: PositiveInt | None = Field(
        None, le=MAX_FEATURES, description="dead features that predict the error; unset: the power of two nearest d_in / 2"
    )
    aux_coefficient: Real = Field(
        1 / 32, ge=0, le=MAX_COEFFICIENT, description="weight of that prediction's normalised squared error; 0: no such loss"
    )

    @model_validator(mode="after")
    def _k_fits(self) -> Self:
        if self.k > self.d_sae:
            raise ValueError(f"k {self.k} is more than d_sae {self.d_sae}: lower k or raise d_sae")
        return self


class ReluAprilConfig(Config):
    """The ReLU autoencoder as Anthropic trains it since April 2024: free decoder, L1 weighted by its norms."""

    architecture: Literal["relu_april"] = "relu_april"
    d_sae: PositiveInt = Field(4096, le=MAX_FEATURES, description="number of features")
    l1_coefficient: Real = Field(
        5.0,
        ge=0,
        le=MAX_COEFFICIENT,
        description="weight of the sum of f_i ‖W_dec,i‖ against the sum over d_in of the squared error, both in scaled units; 5 in the source",
    )


class TiedConfig(Config):
    """The tied autoencoder of Cunningham et al."""

    architecture: Literal["tied"] = "tied"
    d_sae: PositiveInt = Field(4096, le=MAX_FEATURES, description="number of features")
    l1_coefficient: Real = Field(
        0.005,
        ge=0,
        le=MAX_COEFFICIENT,
        description="weight of the sum of a vector's features against the mean over d_in of its squared error, both in scaled units; "
        "the default gave an L0 of 22 in 400 steps on the embedded model's MLP",
    )


class BatchTopKConfig(TopKConfig):
    """The BatchTopK autoencoder of Bussmann et al.: k features per vector on average over a batch."""

    architecture: Literal["batch_topk"] = "batch_topk"  # type: ignore[assignment]
    k: PositiveInt = Field(20, le=MAX_FEATURES, description="features kept per vector, on average over the batch")
    threshold_decay: Real = Field(
        0.99, ge=0, lt=1, description="decay, per step, of the running mean of the smallest kept feature, the threshold of inference"
    )


class MatryoshkaConfig(BatchTopKConfig):
    """The Matryoshka BatchTopK autoencoder of Bussmann et al.: every prefix of the features reconstructs on its own."""

    architecture: Literal["matryoshka"] = "matryoshka"  # type: ignore[assignment]
    group_fractions: tuple[Annotated[Real, Field(gt=0, le=1)], ...] = Field(
        (1 / 32, 1 / 16, 1 / 8, 1 / 4, 17 / 32),
        min_length=1,
        max_length=64,
        description="shares of the features, in order, that each prefix adds to the one before it; their sum is 1",
    )

    @model_validator(mode="after")
    def _groups_fit(self) -> Self:
        total, smallest = sum(self.group_fractions), min(self.group_fractions)
        if abs(total - 1) > 1e-6:
            raise ValueError(f"group_fractions sum to {total:g}. They must sum to 1: change one of them")
        if min(self.group_sizes) < 1:
            raise ValueError(
                f"d_sae {self.d_sae:,} is too small for the group_fractions: the group of {smallest:g} gets no feature. "
                f"Raise d_sae to {math.ceil(1 / smallest - 1e-9):,}, or merge groups"
            )
        return self

    @property
    def group_sizes(self) -> tuple[int, ...]:
        """Features each group adds; what rounding leaves goes to the last."""
        sizes = [int(fraction * self.d_sae) for fraction in self.group_fractions[:-1]]
        return (*sizes, self.d_sae - sum(sizes))


class JumpReluConfig(Config):
    """The JumpReLU autoencoder of Rajamanoharan et al. and of Gemma Scope: a trained threshold per feature, an L0 penalty."""

    architecture: Literal["jumprelu"] = "jumprelu"
    d_sae: PositiveInt = Field(4096, le=MAX_FEATURES, description="number of features")
    l0_coefficient: Real = Field(
        5e-3,
        ge=0,
        le=MAX_COEFFICIENT,
        description="weight of the number of features that fire against the squared error over the mean squared norm; "
        "the default gave an L0 of 33 in 400 steps on the embedded model's MLP",
    )
    bandwidth: Real = Field(
        0.05,
        gt=0,
        le=100,
        description="width of the window around a threshold, in mean norms of an activation; 0.001 in the source, whose runs are much longer",
    )
    threshold_start: Real = Field(
        0.05,
        gt=0,
        le=100,
        description="every threshold at the start, in mean norms of an activation; 0.001 in the source, whose runs are much longer",
    )


class GatedConfig(Config):
    """The Gated autoencoder of Rajamanoharan et al.: one path says whether a feature fires, another how much."""

    architecture: Literal["gated"] = "gated"
    d_sae: PositiveInt = Field(4096, le=MAX_FEATURES, description="number of features")
    l1_coefficient: Real = Field(
        0.25,
        ge=0,
        le=MAX_COEFFICIENT,
        description="weight of the sum of a vector's gate activations, in mean norms, against the squared error over the mean squared norm; "
        "the default gave an L0 of 55 in 400 steps on the embedded model's MLP, 0.5 one of 11",
    )


class PAnnealingConfig(Config):
    """The ReLU autoencoder of Karvonen et al., whose penalty turns from L1 towards L0 as p falls."""

    architecture: Literal["p_annealing"] = "p_annealing"
    d_sae: PositiveInt = Field(4096, le=MAX_FEATURES, description="number of features")
    l1_coefficient: Real = Field(
        0.2,
        ge=0,
        le=MAX_COEFFICIENT,
        description="weight, at p = 1, of the sum of a vector's features, in mean norms, against the squared error over the mean squared norm",
    )
    p_end: Real = Field(0.2, gt=0, le=1, description="p after the last change; it begins at 1")
    anneal_start: Real = Field(0.05, ge=0, lt=1, description="fraction of the run's steps after which p begins to fall")
    anneal_end: Real = Field(1.0, gt=0, le=1, description="fraction of the run's steps at which p would reach its end")
    num_changes: int = Field(10, ge=2, le=10_000, description="how many values p takes, evenly spaced")
    queue_length: PositiveInt = Field(10, le=10_000, description="recent batches over which the penalties of this p and the next are compared")

    @model_validator(mode="after")
    def _starts_before_its_end(self) -> Self:
        if self.anneal_start >= self.anneal_end:
            raise ValueError(f"anneal_start {self.anneal_start:g} is not before anneal_end {self.anneal_end:g}: lower the one or raise the other")
        return self


REGISTERED: dict[str, type[Config]] = {}
ENTRY_POINTS = "monosem.architectures"


@lru_cache(maxsize=1)
def load_installed() -> None:
    """Load the architectures of installed packages: their entry points of the group `monosem.architectures` name modules that call `sae.register`."""
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        entry.load()


def registered(name: object) -> type[Config] | None:
    """The configuration of an architecture that is not built in; None where there is none of this name."""
    if not isinstance(name, str):
        return None
    if name not in REGISTERED:
        load_installed()
    return REGISTERED.get(name)


def _family(value: Any) -> str:
    name = value.get("architecture") if isinstance(value, Mapping) else getattr(value, "architecture", None)
    return BUILT_IN_FAMILY if name in BUILT_IN or registered(name) is None else REGISTERED_FAMILY


def _of_registered(value: Any, info: ValidationInfo) -> Any:
    if isinstance(value, Config):
        return value
    config = REGISTERED[value["architecture"]]
    try:
        return config.parse(value) if info.mode != "json" else config.model_validate_json(json.dumps(value))
    except ConfigError as error:
        raise ValueError(str(error)) from None


_BuiltIn = Annotated[
    ReluConfig | ReluAprilConfig | TiedConfig | PAnnealingConfig | GatedConfig | TopKConfig | BatchTopKConfig | MatryoshkaConfig | JumpReluConfig,
    Field(discriminator="architecture"),
]
_REGISTERED_SCHEMA = {"type": "object", "properties": {"architecture": {"not": {"enum": [*BUILT_IN]}}}, "required": ["architecture"]}
SAEConfig = Annotated[
    Annotated[_BuiltIn, Tag(BUILT_IN_FAMILY)]
    | Annotated[Any, BeforeValidator(_of_registered), WithJsonSchema(_REGISTERED_SCHEMA), Tag(REGISTERED_FAMILY)],
    Discriminator(_family),
]
"""Every architecture by its name in a configuration."""
