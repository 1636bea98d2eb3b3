"""All passes over a few held-out sequences: the clean one, two ablated ones, and one for each dictionary."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.architectures.base import Dictionary
from sae.errors import InputError
from sae.evaluation.accumulators import SequenceLosses
from sae.evaluation.breakdown import LOSS_EDGES, Predictions, breakdown, loss_cells, worst_predictions
from sae.evaluation.downstream import DownstreamSums, kl_histogram
from sae.evaluation.predictions import CleanPredictions, Comparison, clean_predictions, compare, next_token_losses
from sae.evaluation.reconstruction import reconstruction_sums
from sae.evaluation.report import EvaluationSums
from sae.evaluation.sparsity import sparsity_sums
from sae.subject.model import Subject
from sae.subject.replay import SplicedRuns

Target = tuple[str, Float[Tensor, " d_out"]]
"""A hookpoint that a transcoder reconstructs, and the store's mean activation there."""


@dataclass(frozen=True)
class Batch:
    """Sequences and which of their tokens count.

    Attributes:
        tokens: packed sequences.
        first_sequence: number of the first of them.
        counted: tokens that are not special.
    """

    tokens: Int[Tensor, "batch sequence"]
    first_sequence: int
    counted: Bool[Tensor, "batch sequence"]

    @property
    def predicting(self) -> Bool[Tensor, "batch predictions"]:
        """Tokens from which a prediction counts: those that are not special, but for the last of each sequence."""
        return self.counted[:, :-1]


@dataclass(frozen=True)
class SharedPasses:
    """Model passes that all dictionaries of a hookpoint share: the clean one and the ablated ones.

    Attributes:
        runs: passes with another activation at the hookpoint.
        activations: of the clean pass at the hookpoint, float32, counted tokens only.
        average: mean activation of the store there.
        clean: predictions of the clean pass.
        zero: the zero-ablated pass beside it.
        mean_losses: cross-entropies of the mean-ablated pass.
    """

    runs: SplicedRuns
    activations: Float[Tensor, "tokens d_in"]
    average: Float[Tensor, " d_in"]
    clean: CleanPredictions
    zero: Comparison
    mean_losses: Float[Tensor, "batch predictions"]


@torch.no_grad()
def evaluate_sequences(
    subject: Subject,
    hookpoint: str,
    dictionaries: dict[str, Dictionary],
    mean: Float[Tensor, " d_in"],
    tokens: Int[Tensor, "batch sequence"],
    first_sequence: int,
    targets: dict[str, Target] | None = None,
) -> dict[str, EvaluationSums]:
    """The sums of one batch of sequences, by dictionary. Clean and ablated passes are shared by all dictionaries.

    Special tokens (BOS, EOS, padding) are left out of every sum, and what is spliced in or ablated leaves their activations alone. A
    transcoder is spliced in, ablated and compared at its target hookpoint; what it encodes is the activation of the clean pass.

    Args:
        subject: the subject model.
        hookpoint: where the dictionaries were trained.
        dictionaries: by name, on the subject's device.
        mean: mean activation of the store, for mean ablation.
        tokens: packed sequences.
        first_sequence: number of the first of them.
        targets: of those dictionaries that are transcoders.

    Raises:
        InputError: sequences that consist of special tokens.
    """
    special = torch.tensor(sorted(subject.tokenizer.special_token_ids), device=tokens.device)
    batch = Batch(tokens, first_sequence, ~torch.isin(tokens, special))
    if not batch.predicting.any():
        raise InputError(f"sequences from {first_sequence} on hold special tokens only: give the corpus more text")
    reconstructed = {name: (targets or {}).get(name, (hookpoint, mean)) for name in dictionaries}
    shared = {point: _shared_passes(subject, point, average, batch) for point, average in dict(reconstructed.values()).items()}
    seen = shared.get(hookpoint)
    encoded = seen.activations if seen else subject.activations(tokens, [hookpoint])[hookpoint][batch.counted].float()
    return {name: _sums(dictionary, encoded, shared[reconstructed[name][0]], batch) for name, dictionary in dictionaries.items()}


def _shared_passes(subject: Subject, hookpoint: str, average: Float[Tensor, " d_in"], batch: Batch) -> SharedPasses:
    runs = subject.spliced_runs(batch.tokens, hookpoint)
    clean = clean_predictions(runs.logits, batch.tokens)
    zero = compare(clean, _logits_with(runs, batch, torch.zeros_like(average)))
    mean_losses = next_token_losses(_logits_with(runs, batch, average), batch.tokens)
    return SharedPasses(runs, runs.activation[batch.counted].float(), average, clean, zero, mean_losses)


def _sums(dictionary: Dictionary, encoded: Float[Tensor, "tokens d_in"], shared: SharedPasses, batch: Batch) -> EvaluationSums:
    features = dictionary.encode_sparse(encoded)
    reconstructions = dictionary.decode(features)
    comparison = compare(shared.clean, _logits_with(shared.runs, batch, reconstructions))
    return EvaluationSums(
        reconstruction=reconstruction_sums(shared.activations, reconstructions, shared.average),
        sparsity=sparsity_sums(features, batch.counted.nonzero()[:, 0]),
        downstream=_downstream_sums(shared, comparison, batch),
    )


def _logits_with(runs: SplicedRuns, batch: Batch, values: Float[Tensor, "... d_in"]) -> Float[Tensor, "batch sequence d_vocab"]:
    """Logits with `values` (one vector, or one for each counted token) in place of the activations of counted tokens."""

    def replace(activation: Float[Tensor, "batch sequence d_in"]) -> Float[Tensor, "batch sequence d_in"]:
        replaced = activation.clone()
        replaced[batch.counted] = values.to(activation.dtype)
        return replaced

    return runs.logits_with(replace)


def _downstream_sums(shared: SharedPasses, comparison: Comparison, batch: Batch) -> DownstreamSums:
    predictions = _predictions(shared, comparison, batch)
    losses = {
        "clean": shared.clean.losses, "spliced": comparison.losses, "zero_ablated": shared.zero.losses, "mean_ablated": shared.mean_losses,
    }  # fmt: skip
    return DownstreamSums(
        losses=SequenceLosses(
            sequence_ids=np.arange(batch.first_sequence, batch.first_sequence + len(batch.tokens)),
            predictions=batch.predicting.sum(1).cpu().numpy(),
            **{name: (values.double() * batch.predicting).sum(1).cpu().numpy() for name, values in losses.items()},
        ),
        kl_divergence=float(predictions.kl_divergence.sum()),
        kl_histogram=kl_histogram(predictions.kl_divergence),
        zero_kl_divergence=shared.zero.kl_divergence[batch.predicting].sum(dtype=torch.float64).item(),
        agreeing=int(predictions.agrees.sum()),
        by_position=breakdown(predictions, predictions.positions, batch.predicting.shape[1]),
        by_loss=breakdown(predictions, loss_cells(predictions.clean), len(LOSS_EDGES) - 1),
        worst=worst_predictions(predictions),
    )


def _predictions(shared: SharedPasses, comparison: Comparison, batch: Batch) -> Predictions:
    sequences, positions = (index.cpu().numpy() for index in batch.predicting.nonzero(as_tuple=True))

    def chosen(values: Tensor) -> np.ndarray:
        return np.asarray(values[batch.predicting].cpu().numpy())

    return Predictions(
        sequence_ids=sequences + batch.first_sequence,
        positions=positions,
        token_ids=chosen(batch.tokens[:, :-1]),
        next_token_ids=chosen(batch.tokens[:, 1:]),
        clean=chosen(shared.clean.losses.double()),
        spliced=chosen(comparison.losses.double()),
        zero_ablated=chosen(shared.zero.losses.double()),
        mean_ablated=chosen(shared.mean_losses.double()),
        kl_divergence=chosen(comparison.kl_divergence.double()),
        agrees=chosen(comparison.agrees),
    )
