"""Memory that each stage of a run takes at its peak, over all of its processes."""

from typing import Protocol

from jobs.config import RunConfig
from jobs.estimates import COPIES, FLOAT, VALUE_BYTES, parameter_count

RAY_BYTES = 720 * 2**20
"""A local cluster without dashboard, measured."""
WORKER_BYTES = 700 * 2**20
"""A process with torch, Transformers and TransformerLens, measured without its model: 615 to 700 MiB. The command itself is another."""
LOGITS_HELD = 4
"""Tensors of logits that an evaluation worker holds at its peak. With one of codes: 4.7 measured, by 8 to 64 sequences of 256 tokens."""


class ModelSize(Protocol):
    """Sizes of a subject model."""

    d_vocab: int

    @property
    def num_parameters(self) -> int:
        """Weights, its embeddings included."""


def memory_of_stages(config: RunConfig, widths: dict[str, int], model: ModelSize) -> dict[str, float]:
    """Bytes of each stage at its peak, the shared memory of Ray's objects included."""
    model_bytes = model.num_parameters * VALUE_BYTES[config.subject.dtype]
    with_model, length = WORKER_BYTES + model_bytes, config.corpus.context_length
    d_in, codes = widths[config.hookpoint], max(dictionary.sae.d_sae for dictionary in config.training.dictionaries)
    dictionaries = sum(parameter_count(dictionary, d_in) for dictionary in config.training.dictionaries) * FLOAT
    rows = config.harvest.sequences_per_shard * min(config.harvest.tokens_per_sequence or length - 1, length - 1)
    shard = rows * sum(widths.values()) * VALUE_BYTES[config.harvest.dtype]
    tokens = config.evaluation.sequences_per_forward * length
    trainer = config.trainer
    trainers = min(trainer.num_workers, len(config.training.dictionaries)) if trainer.parallel == "dictionaries" else trainer.num_workers
    workers = {
        "harvest": config.harvest.num_workers * (with_model + shard),
        "train": trainers * WORKER_BYTES + dictionaries * COPIES * (trainers if trainer.parallel == "data" else 1),
        "evaluate": config.evaluation.num_workers * (with_model + dictionaries + tokens * (LOGITS_HELD * model.d_vocab + codes) * FLOAT),
        "interpret": config.interpretation.num_workers * (with_model + dictionaries),
    }
    shared = RAY_BYTES + WORKER_BYTES + config.cluster.object_store_bytes
    return {stage: shared + size for stage, size in workers.items()}
