"""The contract that every dictionary keeps."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize

from sae.errors import WidthError
from sae.kernels.features import decode_features
from sae.kernels.sparse import Features, SparseFeatures, as_dense, as_sparse, firings_of
from sae.losses import mean_squared_errors
from sae.notebook import fragment, histogram
from sae.parallel.workers import ALONE, Workers

if TYPE_CHECKING:
    from sae.dictionary_record import DictionaryMetadata


@dataclass(frozen=True, eq=False)
class StepContext:
    """Context of a training step beyond its batch.

    Args:
        dead: features that have long been silent, for losses that revive them; None: not known, none are revived.
        sparsity_scale: factor of the sparsity term, for warming it up; of no effect where sparsity is built in.
        fraction: share of the run's steps that are done, for what anneals.
        target: raw activations to reconstruct, row by row with the batch (transcoders); None: the batch itself.
        workers: who else holds rows of the same batch, or features of the same dictionary.
    """

    dead: Bool[Tensor, " d_sae"] | None = None
    sparsity_scale: float = 1.0
    fraction: float = 0.0
    target: Float[Tensor, "batch d_out"] | None = None
    workers: Workers = ALONE


@dataclass(frozen=True, eq=False)
class TrainingPass:
    """Result of one batch: weighted loss terms with their sum `total`, and what was encoded and decoded on the way.

    Args:
        losses: scalars by name, already weighted, in scaled units; `total` carries the gradient.
        decoded: the reconstruction in scaled units, without gradient.
        scale: of what was decoded.
        code: the features as they were computed, sparse or dense, without gradient.
    """

    losses: dict[str, Float[Tensor, ""]]
    decoded: Float[Tensor, "batch d_out"]
    scale: Float[Tensor, ""]
    code: Features

    @cached_property
    def reconstruction(self) -> Float[Tensor, "batch d_out"]:
        """In raw units, without gradient."""
        return self.decoded / self.scale

    @cached_property
    def features(self) -> SparseFeatures:
        """The features that fired. Costs a conversion where most features fire; `firings` and `active` do not."""
        return as_sparse(self.code)

    @cached_property
    def firings(self) -> Int[Tensor, " d_sae"]:
        """For how many vectors of the batch each feature fired."""
        return firings_of(self.code)

    @property
    def active(self) -> Bool[Tensor, " d_sae"]:
        """Mask of the features that fired for any vector of the batch."""
        return self.firings > 0


FIRST_STEP = StepContext()


class Dictionary(nn.Module, ABC):
    """A sparse dictionary: x̂ = (f(x · s) W_dec + b_dec) / s, where s is `input_scale`.

    Every method takes and returns raw activations; inside, weights, features and losses live in scaled units x · s. Where
    `unit_norm_decoder`, the decoder's rows, the features' directions, have unit norm after `initialize` and after every `after_step`.

    A dictionary with `d_out` is a transcoder: it reconstructs another activation of width d_out, the target, from the one it encodes:
    ŷ = (f(x · s) W_dec + b_dec) / s', where s' is `output_scale`; b_dec then lives in the target's space, and nothing is subtracted
    from x before encoding. Reference: Dunefsky et al. 2024 (arXiv 2406.11944).

    Losses are sums over this process's rows divided by the rows (or the variance) of the whole batch, so that gradients summed over
    data-parallel workers are those of one worker.

    Args:
        config: of the architecture.
        d_in: width of the activations it encodes.
        d_out: width of the activations it reconstructs, for a transcoder; None: it reconstructs what it encodes.
        drawn: whether its weights are drawn; otherwise they hold any values until they are loaded.

    Attributes:
        unit_norm_decoder: whether the rows of W_dec are kept at unit norm.
        pre_encoder_bias: whether b_dec is subtracted before encoding (never in a transcoder).
        feature_parallel: whether it can be trained with its features spread over workers.
        feature_axes: along which axis of a parameter or buffer its features lie; all others are the same for every feature.
        encode_dtype: precision of the product that finds which features may fire; float32 decides in any case. Not saved.
        origin: what is known of where it comes from (hookpoint, subject, store, ...); None: it was not loaded.
    """

    unit_norm_decoder: ClassVar[bool] = True
    pre_encoder_bias: ClassVar[bool] = True
    feature_parallel: ClassVar[bool] = False
    feature_axes: ClassVar[dict[str, int]] = {"W_enc": 1, "b_enc": 0, "W_dec": 0}
    encode_dtype: torch.dtype = torch.float32
    origin: "DictionaryMetadata | None" = None
    input_scale: Float[Tensor, ""]
    output_scale: Float[Tensor, ""] | None

    def __init__(self, config: Any, d_in: int, d_out: int | None = None, *, drawn: bool = True) -> None:
        super().__init__()
        self.config = config
        self.architecture: str = config.architecture
        self.d_in = d_in
        self.d_out = d_in if d_out is None else d_out
        self.is_transcoder = d_out is not None
        self.d_sae: int = config.d_sae
        self.register_buffer("input_scale", torch.ones(()))
        self.register_buffer("output_scale", torch.ones(()) if self.is_transcoder else None)
        self.build()
        if drawn:
            self.initialize(torch.zeros(self.d_out), torch.Generator().manual_seed(0))

    def build(self) -> None:
        """Make the parameters and buffers, with any values: `initialize` follows."""
        self.W_enc = nn.Parameter(torch.empty(self.d_in, self.d_sae))
        self.b_enc = nn.Parameter(torch.zeros(self.d_sae))
        self.W_dec = nn.Parameter(torch.empty(self.d_sae, self.d_out))
        self.b_dec = nn.Parameter(torch.zeros(self.d_out))

    @abstractmethod
    def initialize(self, b_dec: Float[Tensor, " d_out"], generator: torch.Generator) -> None:
        """Set all weights anew, drawing from `generator`; `b_dec` is in scaled units."""

    @abstractmethod
    def features(self, scaled: Float[Tensor, "batch d_in"], workers: Workers = ALONE) -> Features:
        """The features of scaled activations as an evaluation sees them, each row by itself, held in whichever way is cheaper."""

    @abstractmethod
    def training_pass(self, x: Float[Tensor, "batch d_in"], context: StepContext = FIRST_STEP) -> TrainingPass:
        """Encode, decode and price one batch.

        Args:
            x: raw activations.
            context: what else the step knows.

        Raises:
            WidthError: x is not of width d_in, or the target not of width d_out.
        """

    @torch.no_grad()
    def vector_losses(self, x: Float[Tensor, "batch d_in"], context: StepContext = FIRST_STEP) -> Float[Tensor, " batch"]:
        """The loss of each vector by itself, without gradient: by it, inputs are drawn for resampling. Here the mean squared error."""
        reconstruction = self.decode_scaled(self.features(self.scaled(x), context.workers), context.workers)
        return mean_squared_errors(self.scaled_target(x, context.target), reconstruction)

    def scaled(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_in"]:
        """Raw activations in the units of the encoder.

        Raises:
            WidthError: x is not of shape [batch, d_in].
        """
        if x.ndim != 2 or x.shape[1] != self.d_in:
            raise WidthError(f"activations of shape {list(x.shape)} given to a dictionary that takes [batch, {self.d_in}]: flatten or pick another")
        return x.to(self.b_dec.dtype) * self.input_scale

    def scaled_target(self, x: Float[Tensor, "batch d_in"], target: Float[Tensor, "batch d_out"] | None) -> Float[Tensor, "batch d_out"]:
        """Return what is to be reconstructed, in the units of the decoder.

        Raises:
            WidthError: a transcoder has no target, an autoencoder has one, or the target is not of shape [batch, d_out].
        """
        if not self.is_transcoder:
            if target is not None:
                raise WidthError("a target was given to an autoencoder: leave it out, or build the dictionary with d_out")
            return self.scaled(x)
        if target is None or target.shape != (len(x), self.d_out):
            found = "no target" if target is None else f"a target of shape {list(target.shape)}"
            raise WidthError(
                f"{found} given to a transcoder that reconstructs [{len(x)}, {self.d_out}]: give the activations of its target hookpoint"
            )
        return target.to(self.b_dec.dtype) * self.decoded_scale

    @property
    def decoded_scale(self) -> Float[Tensor, ""]:
        """The scale of what is reconstructed."""
        return self.input_scale if self.output_scale is None else self.output_scale

    def center(self, workers: Workers = ALONE) -> Float[Tensor, " d_in"]:
        """Return what is subtracted before encoding: b_dec, or nothing."""
        if self.is_transcoder or not self.pre_encoder_bias:
            return self.b_dec.new_zeros(self.d_in)
        return workers.to_features(self.b_dec)

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """The features of raw activations with any leading axes, with their zeros; differentiable.

        Raises:
            WidthError: the last axis is not of width d_in.
        """
        return as_dense(self.features(self.scaled(self._rows(x)))).reshape(*x.shape[:-1], self.d_sae)

    def encode_sparse(self, x: Float[Tensor, "batch d_in"]) -> SparseFeatures:
        """The features of raw activations that fired; differentiable."""
        return as_sparse(self.features(self.scaled(x)))

    def decode_scaled(self, features: Features, workers: Workers = ALONE) -> Float[Tensor, "batch d_out"]:
        """The reconstruction f W_dec + b_dec in scaled units, summed over the workers that hold the features."""
        return workers.sum_features(decode_features(features, self.W_dec)) + self.b_dec

    def decode(self, features: Features | Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_out"]:
        """Raw activations from features, dense ones with any leading axes: (f W_dec + b_dec) / scale."""
        if isinstance(features, Tensor) and features.ndim != 2:
            rows = features.reshape(-1, features.shape[-1])
            return (self.decode_scaled(rows) / self.decoded_scale).reshape(*features.shape[:-1], self.d_out)
        return self.decode_scaled(features) / self.decoded_scale

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """The reconstruction in raw units, with any leading axes: of x itself, or of a transcoder's target."""
        return self.decode(self.features(self.scaled(self._rows(x)))).reshape(*x.shape[:-1], self.d_out)

    def _rows(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "rows d_in"]:
        if x.ndim == 0 or x.shape[-1] != self.d_in:
            raise WidthError(f"activations of shape {list(x.shape)} given to a dictionary that takes [..., {self.d_in}]: choose another")
        return x.reshape(-1, self.d_in)

    @property
    def hookpoint(self) -> str | None:
        """The hookpoint whose activations it encodes; None where that is not known."""
        return None if self.origin is None else self.origin.hookpoint

    def __repr__(self) -> str:
        """The architecture, its sizes and what differs from its defaults, and the hookpoint and the subject that it belongs to."""
        changed = self.config.model_dump(exclude={"architecture", "d_sae"}, exclude_defaults=True)
        shown = {"d_in": self.d_in} | ({"d_out": self.d_out} if self.is_transcoder else {}) | {"d_sae": self.d_sae} | changed
        if hasattr(self.config, "k"):
            shown["k"] = self.config.k
        if self.origin is not None:
            shown |= {name: known for name in ("hookpoint", "subject") if (known := getattr(self.origin, name)) is not None}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    def _repr_html_(self) -> str:
        """Numbers of the dictionary, and how closely each feature's encoder follows its decoder, for a notebook."""
        origin = self.origin
        known = {name: getattr(origin, name, None) for name in ("name", "hookpoint", "target_hookpoint", "subject", "vectors", "dead_fraction")}
        facts = {"architecture": self.architecture, "d_in": self.d_in, "d_out": self.d_out if self.is_transcoder else None, "d_sae": self.d_sae}
        settings = self.config.model_dump(exclude={"architecture", "d_sae"}, exclude_defaults=True)
        pictures = []
        if {"W_enc", "W_dec"} <= self.feature_axes.keys() and not self.is_transcoder:
            cosines = torch.cosine_similarity(self.W_enc.detach().T, self.W_dec.detach(), dim=1)
            pictures.append(histogram(cosines.cpu().numpy(), "features by the cosine of their encoder and decoder"))
        return fragment(type(self).__name__, facts | settings | known, pictures)

    def draw_directions(self, generator: torch.Generator) -> None:
        """Decoder rows of random direction and unit norm; the encoder their transpose, or, in a transcoder, other such directions."""
        self.W_dec.copy_(normalize(torch.randn(self.W_dec.shape, generator=generator)))
        self.W_enc.copy_(normalize(torch.randn(self.W_enc.T.shape, generator=generator)).T if self.is_transcoder else self.W_dec.T)

    def result(self, losses: dict[str, Float[Tensor, ""]], reconstruction: Float[Tensor, "batch d_out"], features: Features) -> TrainingPass:
        """A training pass from its loss terms and, in scaled units, what was decoded and encoded."""
        total = {"total": torch.stack(list(losses.values())).sum()}
        return TrainingPass(losses | total, reconstruction.detach(), self.decoded_scale, features.detach())

    @torch.no_grad()
    def before_step(self) -> None:
        """Remove the gradient parallel to each feature's direction: the step's renormalisation would undo it, Adam's moments would not.

        Nothing where the decoder is free. Reference: Bricken et al. 2023, Towards Monosemanticity, appendix "Sparse Autoencoders".
        """
        if self.unit_norm_decoder and self.W_dec.grad is not None:
            parallel = torch.linalg.vecdot(self.W_dec.grad, self.W_dec)
            self.W_dec.grad.addcmul_(parallel[:, None], self.W_dec, value=-1)

    @torch.no_grad()
    def after_step(self) -> None:
        """Renormalise each feature's direction to unit norm, where that is promised; a zero row stays as it is."""
        if self.unit_norm_decoder:
            norms = torch.linalg.vector_norm(self.W_dec, dim=1, keepdim=True)
            self.W_dec.div_(norms.clamp_min(torch.finfo(norms.dtype).tiny))
