"""The next-token predictions of one pass beside those of the clean model.

Tokens of the vocabulary are many, so logits are compared a few rows at a time: the clean model's log-probabilities and the logits of the
pass compared with them are held whole, and nothing of their size is made in between.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

CHUNK_ELEMENTS = {"cpu": 2**17, "cuda": 2**26}  # logits at a time; on a CPU, what stays in its second-level cache


@dataclass(frozen=True)
class CleanPredictions:
    """Predictions of the untouched model for every row of a batch of sequences; the last row of a sequence predicts nothing known.

    Attributes:
        log_probabilities: float32, of every token of the vocabulary.
        likeliest: the token with the largest of them.
        losses: cross-entropy of each token after the first, in nats.
        tokens: what the model was run on.
    """

    log_probabilities: Float[Tensor, "rows d_vocab"]
    likeliest: Int[Tensor, " rows"]
    losses: Float[Tensor, "batch predictions"]
    tokens: Int[Tensor, "batch sequence"]


@dataclass(frozen=True)
class Comparison:
    """A pass beside the clean one, for every position but the last.

    Attributes:
        losses: cross-entropy of the pass in nats.
        kl_divergence: KL(clean ‖ pass) in nats.
        agrees: whether the likeliest token is that of the clean model.
    """

    losses: Float[Tensor, "batch predictions"]
    kl_divergence: Float[Tensor, "batch predictions"]
    agrees: Bool[Tensor, "batch predictions"]


@torch.no_grad()
def clean_predictions(logits: Float[Tensor, "batch sequence d_vocab"], tokens: Int[Tensor, "batch sequence"]) -> CleanPredictions:
    """The predictions of the clean pass: `log softmax(logits)` in float32."""
    rows, targets = _next_token_rows(logits, tokens)
    found = torch.empty(rows.shape, dtype=torch.float32, device=rows.device)
    likeliest = torch.empty(len(rows), dtype=torch.int64, device=rows.device)
    for part, chunk in _chunks(rows):
        found[part] = chunk.log_softmax(-1)
        likeliest[part] = _argmax(chunk)
    losses = -found.gather(-1, targets[:, None])[:, 0]
    return CleanPredictions(found, likeliest, losses.unflatten(0, tokens.shape)[:, :-1], tokens)


@torch.no_grad()
def next_token_losses(logits: Float[Tensor, "batch sequence d_vocab"], tokens: Int[Tensor, "batch sequence"]) -> Float[Tensor, "batch predictions"]:
    """Cross-entropy in nats of each token after the first: `−log softmax(logits)[next token]`, in float32."""
    rows, targets = _next_token_rows(logits, tokens)
    losses = [-chunk.log_softmax(-1).gather(-1, targets[part][:, None])[:, 0] for part, chunk in _chunks(rows)]
    return torch.cat(losses).unflatten(0, tokens.shape)[:, :-1]


@torch.no_grad()
def compare(clean: CleanPredictions, logits: Float[Tensor, "batch sequence d_vocab"]) -> Comparison:
    """Compare the predictions of a pass with those of the clean model on the same tokens.

    `KL = sum_v p(v) (log p(v) − log q(v))`, p clean and q of the pass, in float32; what rounding makes of a KL below 0 counts as 0.
    """
    rows, targets = _next_token_rows(logits, clean.tokens)
    losses, divergences, agreements = [], [], []
    for part, chunk in _chunks(rows):
        log_q, log_p = chunk.log_softmax(-1), clean.log_probabilities[part]
        losses.append(-log_q.gather(-1, targets[part][:, None])[:, 0])
        agreements.append(log_q.gather(-1, clean.likeliest[part][:, None])[:, 0] == log_q.amax(-1))
        divergences.append(torch.linalg.vecdot(log_p.softmax(-1), log_p - log_q).clamp(min=0))  # on a CPU faster than log_p.exp()
    columns = [torch.cat(parts).unflatten(0, clean.tokens.shape)[:, :-1] for parts in (losses, divergences, agreements)]
    return Comparison(*columns)


def _argmax(rows: Float[Tensor, "rows d_vocab"]) -> Int[Tensor, " rows"]:
    # On a CPU numpy is ten times as fast. Of equal ones it takes the first.
    return rows.argmax(-1) if rows.is_cuda else torch.from_numpy(rows.numpy().argmax(-1))


def _next_token_rows(
    logits: Float[Tensor, "batch sequence d_vocab"], tokens: Int[Tensor, "batch sequence"]
) -> tuple[Float[Tensor, "rows d_vocab"], Int[Tensor, " rows"]]:
    # The last position of a sequence predicts nothing known. It keeps a row, with any target: leaving it out would copy all logits.
    return logits.flatten(0, 1), tokens.roll(-1, dims=1).flatten()


def _chunks(rows: Float[Tensor, "rows d_vocab"]) -> Iterator[tuple[slice, Float[Tensor, "chunk d_vocab"]]]:
    size = max(1, CHUNK_ELEMENTS.get(rows.device.type, CHUNK_ELEMENTS["cuda"]) // rows.shape[1])
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        yield part, rows[part].float()
