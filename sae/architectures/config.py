"""What each architecture can be told; the key `architecture` chooses among them."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from sae.config import Config


class ReluConfig(Config):
    """The ReLU autoencoder with an L1 penalty of Towards Monosemanticity."""

    architecture: Literal["relu"] = "relu"
    d_sae: PositiveInt = Field(4096, description="number of features")
    l1_coefficient: NonNegativeFloat = Field(
        0.01, description="weight of the sum of a vector's features against the mean over d_in of its squared error, both in scaled units"
    )


class TopKConfig(Config):
    """The TopK autoencoder of Gao et al. with the AuxK loss against dead features."""

    architecture: Literal["topk"] = "topk"
    d_sae: PositiveInt = Field(4096, description="number of features")
    k: PositiveInt = Field(20, description="features kept per vector")
    aux_k: PositiveInt | None = Field(None, description="dead features that predict the error; unset: the power of two nearest d_in / 2")
    aux_coefficient: NonNegativeFloat = Field(1 / 32, description="weight of that prediction's normalised squared error; 0: no such loss")

    @model_validator(mode="after")
    def _k_fits(self) -> Self:
        if self.k > self.d_sae:
            raise ValueError(f"k {self.k} is more than d_sae {self.d_sae}: lower k or raise d_sae")
        return self


SAEConfig = Annotated[ReluConfig | TopKConfig, Field(discriminator="architecture")]
