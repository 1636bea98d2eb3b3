"""All passes over a few held-out sequences: the clean one, two ablated ones, and one for each dictionary."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.architectures.base import Dictionary
from sae.errors import InputError
from sae.evaluation.accumulators import SequenceLosses
from sae.evaluation.downstream import DownstreamSums, compare, kl_histogram, next_token_losses
from sae.evaluation.reconstruction import reconstruction_sums
from sae.evaluation.report import EvaluationSums
from sae.evaluation.sparsity import sparsity_sums
from sae.subject import Subject


@torch.no_grad()
def evaluate_sequences(
    subject: Subject,
    hookpoint: str,
    dictionaries: dict[str, Dictionary],
    mean: Float[Tensor, " d_in"],
    tokens: Int[Tensor, "batch sequence"],
    first_sequence: int,
) -> dict[str, EvaluationSums]:
    """The sums of one batch of sequences, by dictionary. Clean and ablated passes are shared by all dictionaries.

    Special tokens (BOS, EOS, padding) are left out of every sum, and what is spliced in or ablated leaves their activations alone.

    Args:
        subject: the subject model.
        hookpoint: where the dictionaries were trained.
        dictionaries: by name, on the subject's device.
        mean: mean activation of the store, for mean ablation.
        tokens: packed sequences.
        first_sequence: number of the first of them.

    Raises:
        InputError: sequences that consist of special tokens.
    """
    special = torch.tensor(sorted(subject.tokenizer.special_token_ids), device=tokens.device)
    counted = ~torch.isin(tokens, special)
    if not counted[:, :-1].any():
        raise InputError(f"sequences from {first_sequence} on hold special tokens only: give the corpus more text")
    seen: list[Tensor] = []

    def watch(activation: Float[Tensor, "batch sequence d_in"]) -> Float[Tensor, "batch sequence d_in"]:
        seen.append(activation[counted].float())
        return activation

    clean = subject.logits_with(tokens, hookpoint, watch)
    (activations,) = seen
    shared = {
        "clean": next_token_losses(clean, tokens),
        "zero_ablated": next_token_losses(_run_with(subject, hookpoint, tokens, counted, torch.zeros_like(mean)), tokens),
        "mean_ablated": next_token_losses(_run_with(subject, hookpoint, tokens, counted, mean), tokens),
    }
    sums = {}
    for name, dictionary in dictionaries.items():
        features = dictionary.encode_sparse(activations)
        reconstructions = dictionary.decode(features)
        comparison = compare(clean, _run_with(subject, hookpoint, tokens, counted, reconstructions), tokens)
        predicting = counted[:, :-1]
        divergences = comparison.kl_divergence[predicting]
        sums[name] = EvaluationSums(
            reconstruction=reconstruction_sums(activations, reconstructions, mean),
            sparsity=sparsity_sums(features),
            downstream=DownstreamSums(
                losses=_sequence_losses(shared | {"spliced": comparison.losses}, predicting, first_sequence),
                kl_divergence=divergences.sum(dtype=torch.float64).item(),
                kl_histogram=kl_histogram(divergences),
                agreeing=int(comparison.agrees[predicting].sum()),
            ),
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


def _sequence_losses(losses: dict[str, Tensor], predicting: Bool[Tensor, "batch predictions"], first_sequence: int) -> SequenceLosses:
    return SequenceLosses(
        sequence_ids=np.arange(first_sequence, first_sequence + len(predicting)),
        predictions=predicting.sum(1).cpu().numpy(),
        **{name: (values.double() * predicting).sum(1).cpu().numpy() for name, values in losses.items()},
    )
