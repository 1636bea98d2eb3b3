"""How well a batch is mixed: rows of it that share a sequence, and what a mean over the batch loses by them.

Of three orders: the batch order, a shuffle of the whole store, and the rows as they lie in the shards. Which rows come from which sequence
follows from the plan, so the store need not be written; how alike the activations of one sequence are is measured on the embedded model.
"""

import tempfile
from typing import Any

import numpy as np
import torch

from sae.batches.order import BatchOrder, group_shards
from sae.corpus.packing import prepare_corpus
from sae.corpus.sources import CorpusConfig
from sae.storage import Place
from sae.store.manifest import StorePlan
from sae.store.schema import row_bytes
from sae.store.writer import selected_tokens
from sae.subject.model import Subject, SubjectConfig

HOOKPOINT, D_IN, CONTEXT_LENGTH = "blocks.0.mlp.hook_post", 512, 256
NUM_SHARDS, SEQUENCES_PER_SHARD, BATCH_SIZE = 48, 256, 4096
BATCHES_LOOKED_AT = 12
SEQUENCES_FOR_CORRELATION = 256


def mixing_figures() -> dict[str, Any]:
    """For each order the mean number of distinct sequences in a batch, of rows that share a row's sequence, and the design effect."""
    sequences = [sequences_of_rows(shard) for shard in range(NUM_SHARDS)]
    rho = intraclass_correlation()
    rows = tuple(map(len, sequences))
    order = BatchOrder(rows, BATCH_SIZE, group_shards=group_shards(max(rows), row_bytes(D_IN, "float16")))
    everything = np.concatenate(sequences)
    shuffled = np.random.default_rng(0).permutation(everything)
    numbers = np.linspace(0, order.batches_per_epoch - 1, BATCHES_LOOKED_AT).astype(int)
    batches = {
        "batch_order": [np.concatenate([sequences[shard][start:stop] for shard, start, stop in order.slices(int(n))]) for n in numbers],
        "full_shuffle": [shuffled[n * BATCH_SIZE : (n + 1) * BATCH_SIZE] for n in numbers],
        "as_it_lies": [everything[n * BATCH_SIZE : (n + 1) * BATCH_SIZE] for n in numbers],
    }
    figures: dict[str, Any] = {"intraclass_correlation": round(rho, 4), "shards": NUM_SHARDS, "group_shards": len(order.group_members(0, 0))}
    for name, found in batches.items():
        counts = [np.unique(batch, return_counts=True)[1] for batch in found]
        together = float(np.mean([(count**2).sum() / count.sum() for count in counts]))
        distinct = round(float(np.mean([len(count) for count in counts])))
        figures[name] = {
            "distinct_sequences": distinct,
            "rows_of_a_sequence": round(together, 3),
            "design_effect": round(1 + (together - 1) * rho, 3),
        }
    return figures


def sequences_of_rows(shard: int) -> np.ndarray:
    """The sequence of each row of a shard, in the order of its rows."""
    plan = StorePlan(
        subject="", subject_digest="", corpus_digest="", context_length=CONTEXT_LENGTH, hookpoints={HOOKPOINT: D_IN},
        num_sequences=NUM_SHARDS * SEQUENCES_PER_SHARD, sequences_per_shard=SEQUENCES_PER_SHARD, special_token_ids=[0],
    )  # fmt: skip
    tokens = np.ones((SEQUENCES_PER_SHARD, CONTEXT_LENGTH), np.uint32)
    tokens[:, 0] = 0
    return shard * SEQUENCES_PER_SHARD + selected_tokens(plan, shard, tokens) // CONTEXT_LENGTH


def intraclass_correlation() -> float:
    """Of two activations of one sequence, all coordinates together: (MSB − MSW) / (MSB + (n − 1)·MSW) of a one-way analysis of variance."""
    subject = Subject.load(SubjectConfig(), "cpu")
    with tempfile.TemporaryDirectory() as directory:
        config = CorpusConfig(
            text=["dependencies"],
            context_length=CONTEXT_LENGTH,
            train_tokens=SEQUENCES_FOR_CORRELATION * CONTEXT_LENGTH,
            held_out_tokens=CONTEXT_LENGTH,
        )
        corpus = prepare_corpus(config, subject.tokenizer, Place(directory))
        tokens = torch.from_numpy(corpus.sequences("train", 0, corpus.num_sequences("train")).astype(np.int64))
    x = torch.cat([subject.activations(part, [HOOKPOINT])[HOOKPOINT][:, 1:].double() for part in tokens.split(32)])
    groups, n, _ = x.shape
    means = x.mean(dim=1)
    between = n * (means - means.mean(dim=0)).square().sum() / (groups - 1)
    within = (x - means[:, None]).square().sum() / (groups * (n - 1))
    return float((between - within) / (between + (n - 1) * within))
