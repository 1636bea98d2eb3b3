"""One dictionary to train, as a configuration says it."""

from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from sae.architectures.config import SAEConfig
from sae.architectures.registry import ARCHITECTURES
from sae.config import Config, Name, Real, Seed
from sae.training.optimization import OptimizerConfig
from sae.training.resampling import ResamplingConfig

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


def can_be_resampled(architecture: str) -> bool:
    """Whether an architecture has the weights that resampling sets."""
    return set(ARCHITECTURES[architecture].feature_axes) >= RESAMPLED_WEIGHTS
