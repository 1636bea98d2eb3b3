"""A proxy for "this text has the label", made of token frequencies alone: what an activation is compared with."""

import numpy as np

FLOOR = 1e-10


def log_likelihood_ratios(sequences: np.ndarray, lengths: np.ndarray, label_ids: np.ndarray, held_out: np.ndarray, num_labels: int) -> np.ndarray:
    """Log-likelihood ratio of each label at each token, in nats: float64 `[num_labels, sequences, context_length]`.

    `max over a <= t of sum_{i=a..t} log(P(s_i | label) / P(s_i))`: the best of all pieces of text that end at the token. P is a unigram
    model of tokens, counted on the selection half and no smaller than 1e-10; P(s) is the mean over labels of P(s | label), so that no
    label counts more for being long. BOS and what fills a sequence up are left out; at BOS the ratio is 0.

    Reference: Bricken et al. 2023, "Towards Monosemanticity", the proxies of the Arabic, DNA, base64 and Hebrew features (there P(s | label)
    is made by hand for each).

    Args:
        sequences: uint32 `[sequences, context_length]`.
        lengths: tokens of each sequence that count, BOS included.
        label_ids: of each sequence.
        held_out: the sequences not to count.
        num_labels: labels.
    """
    counts = np.zeros((num_labels, int(sequences.max()) + 1))
    counted = np.arange(sequences.shape[1]) < lengths[:, None]
    counted[:, 0] = False
    for label in range(num_labels):
        chosen = (label_ids == label) & ~held_out
        counts[label] = np.bincount(sequences[chosen][counted[chosen]], minlength=counts.shape[1])
    given_label = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    logs = np.log(np.maximum(given_label, FLOOR)) - np.log(np.maximum(given_label.mean(0), FLOOR))
    ratios = np.zeros((num_labels, *sequences.shape))
    for position in range(1, sequences.shape[1]):
        step = logs[:, sequences[:, position]]
        ratios[:, :, position] = (step + np.maximum(ratios[:, :, position - 1], 0)) * counted[:, position]
    return ratios
