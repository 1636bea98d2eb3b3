"""Common form of every library's dictionary: matrices that take raw activations, and a rule for which features are kept.

Ours scales its input: f = act((x·s − b_dec) W_enc + b), x̂ = (f W_dec + b_dec) / s. Other layouts hold no such scale. With

    W_enc' = s W_enc    b_dec' = b_dec / s    W_dec' = W_dec / s

the pre-activations (x − b_dec') W_enc' + b are the same numbers, hence so are biases, thresholds, the choice of k and every feature,
and f W_dec' + b_dec' is the same reconstruction (a transcoder's decoder is divided by its own output_scale). The way back needs the s
that was lost: where all rows of W_dec' have one norm c, s = 1/c makes them unit vectors again.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sae.architectures.base import Dictionary
from sae.errors import InputError
from sae.interoperability.imported_origin import Provenance
from sae.tensor_files import LARGEST

Rule = Literal["relu", "topk", "jumprelu", "gated"]
VECTORS: dict[str, tuple[str, ...]] = {
    "relu": ("b_enc",),
    "topk": ("b_enc",),
    "jumprelu": ("b_enc", "threshold"),
    "gated": ("b_gate", "b_mag", "r_mag"),
}


LARGEST_OF = {"threshold": 3e38, "r_mag": 40.0}  # a threshold is only compared; exp(r_mag) is multiplied
# How each architecture of ours chooses features once it is trained. BatchTopK then has one threshold for all features.
RULES: dict[str, Rule] = {
    "relu": "relu",
    "relu_april": "relu",
    "tied": "relu",
    "p_annealing": "relu",
    "gated": "gated",
    "topk": "topk",
    "batch_topk": "jumprelu",
    "matryoshka": "jumprelu",
    "jumprelu": "jumprelu",
}


@dataclass(frozen=True, eq=False)
class RawForm:
    """A dictionary on raw activations: z = x W_enc + b with x or x − b_dec as input, f by the rule, x̂ = f W_dec + b_dec.

    ========  ==============================================================
    rule      features
    ========  ==============================================================
    relu      ReLU(z)
    topk      ReLU of the k largest entries of z in each row
    jumprelu  z where z > threshold and z > 0, else 0
    gated     ReLU(exp(r_mag) (z − b) + b_mag) where z − b + b_gate > 0
    ========  ==============================================================

    Attributes:
        rule: which features are kept.
        vectors: by name, one value a feature: what `VECTORS` lists for the rule.
        subtracts_b_dec: whether b_dec is taken off the input; never in a transcoder.
        k: features kept a vector, for `topk`.
        is_transcoder: whether it reconstructs other activations than it encodes.
        provenance: what is known of its origin, for the metadata.
    """

    rule: Rule
    W_enc: Float[Tensor, "d_in d_sae"]
    W_dec: Float[Tensor, "d_sae d_out"]
    b_dec: Float[Tensor, " d_out"]
    vectors: dict[str, Float[Tensor, " d_sae"]]
    subtracts_b_dec: bool = True
    k: int | None = None
    is_transcoder: bool = False
    provenance: Provenance = field(default_factory=Provenance)

    @property
    def d_in(self) -> int:
        """Activation width."""
        return self.W_enc.shape[0]

    @property
    def d_out(self) -> int:
        """Width of what is reconstructed."""
        return self.b_dec.shape[0]

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return self.W_enc.shape[1]

    def encode(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_sae"]:
        """The features of raw activations, by the formula above; for checks, not for speed."""
        products = (x - self.b_dec if self.subtracts_b_dec else x) @ self.W_enc
        if self.rule == "gated":
            magnitudes = torch.relu(self.vectors["r_mag"].exp() * products + self.vectors["b_mag"])
            return magnitudes * (products + self.vectors["b_gate"] > 0)
        z = products + self.vectors["b_enc"]
        if self.rule == "jumprelu":
            return torch.relu(z) * (z > self.vectors["threshold"])
        if self.rule == "topk":
            assert self.k is not None  # noqa: S101 - `checked` holds it
            kept = z.topk(self.k, dim=1)
            return torch.zeros_like(z).scatter(1, kept.indices, torch.relu(kept.values))
        return torch.relu(z)

    def decode(self, features: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_out"]:
        """Raw activations from features."""
        return features @ self.W_dec + self.b_dec

    def subtracting(self, wanted: bool) -> "RawForm":
        """The same dictionary with b_dec taken off its input, or with that product moved into the biases."""
        if wanted == self.subtracts_b_dec:
            return self
        shift = (self.b_dec.double() @ self.W_enc.double()) * (1 if wanted else -1)
        moved = {name: (self.vectors[name].double() + shift * _weight(self, name)).float() for name in self.vectors if name.startswith("b_")}
        return replace(self, vectors=self.vectors | moved, subtracts_b_dec=wanted)

    def checked(self, where: str) -> "RawForm":
        """Itself, if shapes agree and all weights are finite.

        Raises:
            InputError: one sentence on what does not fit.
        """
        if self.W_enc.ndim != 2 or self.b_dec.ndim != 1 or not all(self.W_enc.shape):
            raise InputError(
                f"{where}: W_enc is {list(self.W_enc.shape)} and b_dec {list(self.b_dec.shape)}, expected a matrix and a vector: damaged"
            )
        d_in, d_sae = self.W_enc.shape
        d_out = self.d_out if self.is_transcoder else d_in
        expected = {"W_dec": (d_sae, d_out), "b_dec": (d_out,)} | dict.fromkeys(VECTORS[self.rule], (d_sae,))
        tensors = {"W_enc": self.W_enc, "W_dec": self.W_dec, "b_dec": self.b_dec} | self.vectors
        for name, shape in expected.items():
            if tuple(tensors[name].shape) != shape:
                raise InputError(
                    f"{where}: {name} is {list(tensors[name].shape)}, expected {list(shape)} beside an encoder of {d_in} × {d_sae}: damaged"
                )
        for name, tensor in tensors.items():
            if not torch.isfinite(tensor).all():
                raise InputError(f"{where}: {name} holds NaN or infinity, so no feature could be trusted. Use another checkpoint")
            if (largest := tensor.abs().max().item()) > LARGEST_OF.get(name, LARGEST):
                raise InputError(f"{where}: {name} holds values up to {largest:.3g}, with which float32 overflows. Use another checkpoint")
        if self.rule == "topk" and (self.k is None or not 1 <= self.k <= d_sae):
            raise InputError(f"{where}: k is {self.k!r}, expected a whole number from 1 to {d_sae}. Correct its configuration")
        return self


def raw_form(dictionary: Dictionary) -> RawForm:
    """A dictionary of ours on raw activations.

    Raises:
        InputError: its architecture cannot be said in these terms.
    """
    rule = RULES.get(dictionary.architecture)
    if rule is None:
        raise InputError(
            f"the architecture {dictionary.architecture!r} has no counterpart in other libraries' layouts; these have one: {', '.join(RULES)}"
        )
    scale, decoded_scale = dictionary.input_scale.double(), dictionary.decoded_scale.double()
    W_enc, W_dec, b_dec = (tensor.detach().double() for tensor in (dictionary.W_enc, dictionary.W_dec, dictionary.b_dec))
    return RawForm(
        rule=rule,
        W_enc=(W_enc * scale).float().contiguous(),
        W_dec=(W_dec / decoded_scale).float().contiguous(),
        b_dec=(b_dec / decoded_scale).float(),
        vectors={name: _vector(dictionary, name) for name in VECTORS[rule]},
        subtracts_b_dec=dictionary.pre_encoder_bias and not dictionary.is_transcoder,
        k=dictionary.config.k if rule == "topk" else None,
        is_transcoder=dictionary.is_transcoder,
    ).checked(f"the {dictionary.architecture} dictionary")


def _vector(dictionary: Dictionary, name: str) -> Float[Tensor, " d_sae"]:
    value: Tensor = getattr(dictionary, name).detach().float()
    return value.expand(dictionary.d_sae).clone()  # BatchTopK has one threshold for all features


def _weight(form: RawForm, name: str) -> Float[Tensor, " d_sae"] | float:
    return form.vectors["r_mag"].double().exp() if name == "b_mag" else 1.0
