"""All passes over a few held-out sequences: the clean one, two ablated ones, and one for each dictionary."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.architectures.base import Dictionary
from sae.errors import InputError
from sae.evaluation.accumulators import SequenceLosses
from sae.evaluation.downstream import Comparison, DownstreamSums, compare, kl_histogram, next_token_losses
from sae.evaluation.reconstruction import reconstruction_sums
from sae.evaluation.report import EvaluationSums
from sae.evaluation.sparsity import sparsity_sums
from sae.subject import Subject

Target = tuple[str, Float[Tensor, " d_out"]]
"""A hookpoint that a transcoder reconstructs, and the store's mean activation there."""


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
    counted = ~torch.isin(tokens, special)
    if not counted[:, :-1].any():
        raise InputError(f"sequences from {first_sequence} on hold special tokens only: give the corpus more text")
    seen: dict[str, Tensor] = {}

    def watch(activation: Float[Tensor, "batch sequence d_in"]) -> Float[Tensor, "batch sequence d_in"]:
        seen[hookpoint] = activation[counted].float()
        return activation

    clean = subject.logits_with(tokens, hookpoint, watch)
    reconstructed = {name: (targets or {}).get(name, (hookpoint, mean)) for name in dictionaries}
    shared = {}
    for point, average in dict(reconstructed.values()).items():
        if point not in seen:
            seen[point] = subject.activations(tokens, [point])[point][counted].float()
        shared[point] = {
            "clean": next_token_losses(clean, tokens),
            "zero_ablated": next_token_losses(_run_with(subject, point, tokens, counted, torch.zeros_like(average)), tokens),
            "mean_ablated": next_token_losses(_run_with(subject, point, tokens, counted, average), tokens),
        }
    sums = {}
    for name, dictionary in dictionaries.items():
        point, average = reconstructed[name]
        features = dictionary.encode_sparse(seen[hookpoint])
        reconstructions = dictionary.decode(features)
        comparison = compare(clean, _run_with(subject, point, tokens, counted, reconstructions), tokens)
        sums[name] = EvaluationSums(
            reconstruction=reconstruction_sums(seen[point], reconstructions, average),
            sparsity=sparsity_sums(features),
            downstream=_downstream_sums(shared[point], comparison, counted[:, :-1], first_sequence),
        )
    return sums


def _run_with(
    subject: Subject,
    hookpoint: str,
    tokens: Int[Tensor, "batch sequence"],
    counted: Bool[Tensor, "batch sequence"],
    values: Float[Tensor, "... d_in"],
) -> Float[Tensor, "batch sequence d_vocab"]:
    """Logits with `values` (one vector, or one for each counted token) in place of the activations of counted tokens."""

    def replace(activation: Float[Tensor, "batch sequence d_in"]) -> Float[Tensor, "batch sequence d_in"]:
        replaced = activation.clone()
        replaced[counted] = values.to(activation.dtype)
        return replaced

    return subject.logits_with(tokens, hookpoint, replace)


def _downstream_sums(
    losses: dict[str, Tensor], comparison: Comparison, predicting: Bool[Tensor, "batch predictions"], first_sequence: int
) -> DownstreamSums:
    divergences = comparison.kl_divergence[predicting]
    return DownstreamSums(
        losses=_sequence_losses(losses | {"spliced": comparison.losses}, predicting, first_sequence),
        kl_divergence=divergences.sum(dtype=torch.float64).item(),
        kl_histogram=kl_histogram(divergences),
        agreeing=int(comparison.agrees[predicting].sum()),
    )


def _sequence_losses(losses: dict[str, Tensor], predicting: Bool[Tensor, "batch predictions"], first_sequence: int) -> SequenceLosses:
    return SequenceLosses(
        sequence_ids=np.arange(first_sequence, first_sequence + len(predicting)),
        predictions=predicting.sum(1).cpu().numpy(),
        **{name: (values.double() * predicting).sum(1).cpu().numpy() for name, values in losses.items()},
    )
