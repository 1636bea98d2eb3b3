"""The worker of a harvest: the subject model, and the buffers of the shards that it has under way.

It holds `pool.queue` shards at once: one runs through the model while the others are gathered, encoded, hashed and put by threads of their own.
A slow store therefore holds the model up, and memory is bounded: each of these shards has one set of buffers, which serves shard after shard.
"""

import queue
import threading
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8, UInt32
from torch import Tensor

from sae.corpus.packing import TokenCorpus
from sae.devices import device
from sae.errors import CorruptObjectError, PlanError
from sae.storage import Place
from sae.store.manifest import MANIFEST_KEY, StorePlan, read_manifest
from sae.store.schema import TORCH_DTYPES
from sae.store.writer import encoding_bytes, write_shard
from sae.subject.model import Subject, SubjectConfig


@dataclass(frozen=True)
class HarvestReport:
    """Outcome of one shard."""

    shard: int
    tokens: int
    rows: int
    written_bytes: int
    put_seconds: tuple[float, ...]


class _ShardMemory:
    """The buffers of one shard in the making."""

    def __init__(self, plan: StorePlan, pinned: bool) -> None:
        shape, dtype = (plan.sequences_per_shard, plan.context_length), TORCH_DTYPES[plan.dtype]
        self.activations = {name: torch.empty(*shape, d_in, dtype=dtype, pin_memory=pinned) for name, d_in in plan.hookpoints.items()}
        self.encoded: UInt8[np.ndarray, " byte"] = np.empty(encoding_bytes(plan), np.uint8)


class HarvestWorker:
    """Runs the subject model over the sequences of one shard after another; `run` may be called from several threads.

    Memory beyond the model and its forward pass: for each shard at once, all its activations at all hookpoints in the dtype of the store, and its
    largest encoded object (`sae.store.writer.encoding_bytes`).

    Raises:
        PlanError: the subject model or the corpus is no longer the plan's.
    """

    TASKS_METRIC = "monosem_shards_total"

    def __init__(self, plan: StorePlan, corpus_url: str, store_url: str, subject: SubjectConfig) -> None:
        self.plan, self.corpus, self.place = plan, TokenCorpus(Place(corpus_url)), Place(store_url)
        if self.corpus.manifest.digest != plan.corpus_digest:
            raise PlanError(f"{corpus_url} changed while it was harvested (or differs between machines): start again with one corpus")
        self.subject = Subject.load(subject, device())
        if self.subject.digest != plan.subject_digest:
            raise PlanError(f"{subject.model!r} changed while it was harvested (or differs between machines): start again with one model")
        self._finished = read_manifest(self.place) if self.place.exists(MANIFEST_KEY) else None  # which lost some of its shards
        self._model_in_use = threading.Lock()
        self._memory: queue.SimpleQueue[_ShardMemory] = queue.SimpleQueue()
        self._copies = torch.cuda.Stream() if self.subject.device == "cuda" else None

    def run(self, shard: int) -> HarvestReport:
        """Harvest one shard; a second time, it leaves the same bytes."""
        try:
            memory = self._memory.get_nowait()
        except queue.Empty:
            memory = _ShardMemory(self.plan, pinned=self._copies is not None)
        try:
            with self._model_in_use:  # two passes at once would take turns on the same processors, and twice the memory
                tokens = self._tokens(shard)
                activations = self._activations(tokens, memory)
            promised = {name: entries[shard] for name, entries in self._finished.shards.items()} if self._finished else None
            written = write_shard(self.place, self.plan, shard, tokens, activations, memory.encoded, promised)
        finally:
            self._memory.put(memory)
        return HarvestReport(shard, tokens.size, written.rows, written.written_bytes, written.put_seconds)

    def _tokens(self, shard: int) -> UInt32[np.ndarray, "sequence position"]:
        tokens = self.corpus.sequences("train", *self.plan.shard_range(shard))
        if (largest := int(tokens.max())) >= self.subject.d_vocab:
            raise CorruptObjectError(
                f"{self.corpus.place.url} has the token {largest:,}, the subject has {self.subject.d_vocab:,}: delete the corpus and prepare it again"
            )
        return tokens

    def _activations(self, tokens: UInt32[np.ndarray, "sequence position"], memory: _ShardMemory) -> dict[str, Float[Tensor, "sequence position _"]]:
        activations = {name: whole[: len(tokens)] for name, whole in memory.activations.items()}
        for start in range(0, len(tokens), self.plan.sequences_per_forward):
            part = slice(start, start + self.plan.sequences_per_forward)
            batch = torch.from_numpy(tokens[part].astype("int64")).to(self.subject.device)
            for name, found in self.subject.activations(batch, list(activations)).items():
                self._copy_out(found, activations[name][part])
        if self._copies is not None:
            self._copies.synchronize()
        return activations

    def _copy_out(self, found: Float[Tensor, "sequence position _"], target: Float[Tensor, "sequence position _"]) -> None:
        """Round to the precision of the store, into its memory; from a GPU, beside the next forward pass."""
        if self._copies is None:
            target.copy_(found)
            return
        self._copies.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._copies):
            target.copy_(found.to(target.dtype), non_blocking=True)
        found.record_stream(self._copies)
