"""Running the subject model over a text once, for all sources together."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import torch
from scipy.sparse import csc_array

from sae.errors import HookpointError
from sae.interpretation.records import FEATURES_SCHEMA
from sae.interpretation.sources.sources import FeatureSource
from sae.interpretation.text.passages import Passages
from sae.subject.model import Subject

BATCH_TOKENS = 4096  # tokens in one pass of the model: bounds what a dense code takes
BLOCK_DIRECTIONS = 256  # directions whose effects on the whole vocabulary are held at once
NUM_LOGITS = 10  # tokens kept at either end, as in Towards Monosemanticity
NUM_FURTHER_LOGITS = 50  # tokens after those: what its logit test asks for, ranks 11 to 60


def read_codes(
    subject: Subject, hookpoint: str, sources: dict[str, FeatureSource], passages: Passages
) -> tuple[dict[str, list[csc_array]], np.ndarray]:
    """The code of every readable token of a text under every source.

    Returns:
        For each source the codes `[batch features]` of consecutive batches, and the positions of all their rows in the text.
    """
    codes: dict[str, list[csc_array]] = {name: [] for name in sources}
    readable = passages.readable.reshape(passages.tokens.shape)
    for rows in _batches(len(passages.tokens), max(1, BATCH_TOKENS // passages.length)):
        tokens = torch.from_numpy(passages.tokens[rows].astype(np.int64)).to(subject.device)
        activations = subject.activations(tokens, [hookpoint])[hookpoint]
        x = activations[torch.from_numpy(readable[rows]).to(subject.device)].float()
        for name, source in sources.items():
            codes[name].append(source.firings(x))
    return codes, np.flatnonzero(passages.readable)


def read_logits(subject: Subject, hookpoint: str, source: FeatureSource, features: np.ndarray) -> pa.Table:
    """Compute the effect of each feature on logits: columns `top_logits`, `bottom_logits`, `further_logits`, empty where there is no such path."""
    fields = [FEATURES_SCHEMA.field(name) for name in ("top_logits", "bottom_logits", "further_logits")]
    tables = []
    for rows in _batches(len(features), BLOCK_DIRECTIONS):
        block = features[rows]
        directions = source.directions(int(block[0]), int(block[-1]) + 1)[block - block[0]]
        try:
            effects = subject.logit_effects(hookpoint, directions)
        except HookpointError:
            return pa.table({field.name: pa.array([[]] * len(features), field.type) for field in fields})
        raised = effects.topk(min(NUM_LOGITS + NUM_FURTHER_LOGITS, effects.shape[1]))
        lowered = effects.topk(min(NUM_LOGITS, effects.shape[1]), largest=False)
        ends = [(each.indices[:, :NUM_LOGITS], each.values[:, :NUM_LOGITS]) for each in (raised, lowered)]
        further = pa.array(list(raised.indices[:, NUM_LOGITS:].numpy(force=True)), fields[2].type)
        tables.append(pa.table([*(_logit_column(*end, subject.tokenizer.token_texts) for end in ends), further], schema=pa.schema(fields)))
    return pa.concat_tables(tables) if tables else pa.schema(fields).empty_table()


def _logit_column(tokens: torch.Tensor, effects: torch.Tensor, token_texts: Sequence[str]) -> pa.Array:
    ids, values = tokens.numpy(force=True), effects.numpy(force=True).astype(np.float32)
    kind = FEATURES_SCHEMA.field("top_logits").type
    texts = pa.array([token_texts[token] if token < len(token_texts) else "" for token in ids.reshape(-1).tolist()])
    entries = pa.StructArray.from_arrays(
        [pa.array(ids.reshape(-1).astype(np.uint32)), texts, pa.array(values.reshape(-1))], fields=list(kind.value_type)
    )
    return pa.ListArray.from_arrays(pa.array(np.arange(len(ids) + 1) * ids.shape[1], pa.int32()), entries, type=kind)


def _batches(size: int, step: int) -> Iterator[slice]:
    return (slice(first, min(first + step, size)) for first in range(0, size, step))
