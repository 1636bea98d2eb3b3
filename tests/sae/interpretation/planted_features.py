"""A text of random tokens and features whose meaning is known, for the tests of interpretation."""

import numpy as np

from sae.interpretation.records import Budget, ExampleMix
from sae.interpretation.text.passages import Passages

VOCABULARY, LENGTH = 50, 64
TOKEN, FIRST, SECOND = 7, 11, 12
BUDGET = Budget(
    explanation_examples=ExampleMix(top=20, random=5, out_of_context=10, tokens_before=6, tokens_after=4),
    scoring_examples=ExampleMix(top=6, random=10, out_of_context=20, tokens_before=4, tokens_after=4),
)
TEXTS = [f"<{token}>" for token in range(VOCABULARY)]


def passages(split, num_sequences, seed):
    """Random tokens 1 .. 49 after a BOS of 0, where FIRST is followed by SECOND half of the time."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, VOCABULARY, (num_sequences, LENGTH)).astype(np.uint32)
    follow = (tokens[:, :-1] == FIRST) & (rng.random((num_sequences, LENGTH - 1)) < 0.5)
    tokens[:, 1:][follow] = SECOND
    tokens[:, 0] = 0
    return Passages(split, np.arange(num_sequences) * 3, tokens, [0])


def firings(text, activation):
    """(positions, activations) of `[sequences, length]` activations, none at special tokens."""
    flat = np.where(text.readable, activation.reshape(-1), 0).astype(np.float32)
    positions = np.flatnonzero(flat)
    return positions, flat[positions]


def one_token(text):
    """Fires on TOKEN, about twice as strongly at odd places of the sequence as at even ones: how strongly is not in the token."""
    strength = 2 + np.sin(np.arange(text.tokens.size).reshape(text.tokens.shape) * 1.7)
    return firings(text, (text.tokens == TOKEN) * strength)


def bigram(text):
    """Fires on SECOND after FIRST only."""
    strength = 3 + np.sin(np.arange(text.tokens.size).reshape(text.tokens.shape) * 1.7)
    follows = np.zeros(text.tokens.shape, bool)
    follows[:, 1:] = (text.tokens[:, 1:] == SECOND) & (text.tokens[:, :-1] == FIRST)
    return firings(text, follows * strength)


def noise(text):
    """Fires on half of the tokens, whatever they are."""
    return firings(text, np.maximum(np.random.default_rng(len(text.tokens)).standard_normal(text.tokens.shape), 0))
