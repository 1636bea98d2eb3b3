"""Documents to packed sequences of tokens, numbered from 0, any range of them readable without the rest.

::

    <corpus>/train/000000.arrow       SEQUENCES_PER_SHARD packed sequences, in order
    <corpus>/held_out/000000.arrow
    <corpus>/text.json                what the files of text were
    <corpus>/manifest.json            last: the corpus may be read

A sequence is `context_length` tokens: BOS, then the running text of the split with documents separated by EOS. No token is padding;
the unfilled last sequence is dropped. Documents of equal text count once, and the split a document falls into follows from its text
(see `sae.corpus.splitting`), so held-out text cannot leak into training under another name or in another run.
"""

import logging
import math
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import pyarrow as pa
from jaxtyping import UInt32

from sae.corpus.formats.plain import SEPARATOR
from sae.corpus.manifest import (
    CORPUS_MANIFEST_KEY,
    SEQUENCES_PER_SHARD,
    CorpusManifest,
    TokenShard,
    read_corpus_manifest,
    sequences_digest,
    shard_key,
    write_corpus_manifest,
)
from sae.corpus.sources import DEPENDENCIES, CorpusConfig
from sae.corpus.splitting import SPLITS, Split, split_documents
from sae.corpus.text_record import check_text_is_the_same, read_text_record, record_text, write_text_record
from sae.errors import CorruptObjectError, EmptyCorpusError, InputError, PlanError
from sae.storage import ArrowFile, ArrowFileError, Place, sha256_hex

logger = logging.getLogger(__name__)
DOCUMENTS_PER_ENCODING = 256


class Tokenizer(Protocol):
    """Interface of a tokenizer, as packing needs it."""

    digest: str
    bos_token_id: int
    eos_token_id: int
    unknown_token_id: int | None

    def encode(self, texts: list[str]) -> list[list[int]]:
        """The tokens of each text, without special tokens."""


class TokenCorpus:
    """A finished corpus, open for reading.

    Raises:
        InputError: there is no finished corpus at this place.
        CorruptObjectError: its manifest was changed after it was written.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.manifest = read_corpus_manifest(place)

    def num_sequences(self, split: Split) -> int:
        """Sequences of a split."""
        return self.manifest.num_sequences(split)

    def sequences(self, split: Split, start: int, stop: int) -> np.ndarray:
        """Sequences `[start, stop)` of a split as uint32 `[stop - start, context_length]`.

        Raises:
            IndexError: a range outside the split.
            CorruptObjectError: a shard that is not the one the manifest names.
        """
        if not 0 <= start <= stop <= self.num_sequences(split):
            raise IndexError(f"sequences [{start}, {stop}) of a split {split!r} with {self.num_sequences(split)}")
        parts, first = [], 0
        for shard in self.manifest.shards(split):
            low, high = max(start - first, 0), min(stop - first, shard.sequences)
            if low < high:
                parts.append(self._read(shard, first)[low:high])
            first += shard.sequences
        width = self.manifest.config.context_length
        return np.concatenate(parts) if parts else np.empty((0, width), np.uint32)

    def _read(self, shard: TokenShard, first: int) -> UInt32[np.ndarray, "sequence position"]:
        try:
            buffer = self.place.open_buffer(shard.key)
            if sha256_hex(buffer) != shard.sha256:
                raise ArrowFileError("it is not the object its manifest names")
            tokens = sequences_from_ipc(buffer, first, first + shard.sequences, self.manifest.config.context_length)
            if (tokens[:, 0] != self.manifest.bos_token_id).any():
                raise ArrowFileError(f"a sequence does not begin with the token {self.manifest.bos_token_id}")
        except (ArrowFileError, InputError, pa.ArrowInvalid) as error:  # it is not there, or empty, so that it cannot be mapped
            raise CorruptObjectError(f"{self.place.path(shard.key)} cannot be trusted, {error}: delete the corpus and prepare it again") from None
        return tokens


def prepare_corpus(config: CorpusConfig, tokenizer: Tokenizer, place: Place, progress: Callable[[int], None] = lambda tokens: None) -> TokenCorpus:
    """Tokenise, pack and write a corpus, or open the finished one that is already there.

    Args:
        config: which text, how much of it.
        tokenizer: of the subject model.
        place: where the corpus goes.
        progress: told the tokens of the training split as they are packed.

    Raises:
        EmptyCorpusError: the sources do not fill one sequence of either split.
        PlanError: the place holds a corpus of another configuration or of other text, or the text changed while it was read.
    """
    if place.exists(CORPUS_MANIFEST_KEY):
        corpus = TokenCorpus(place)
        _check_same(corpus.manifest, config, tokenizer, place)
        check_text_is_the_same(config, read_text_record(place, corpus.manifest.text_digest), "when the corpus was made")
        return corpus
    text = record_text(config)
    writers = {split: _SplitWriter(place, split, config, tokenizer) for split in SPLITS}
    counts = {"train": 0, "held_out": 0, "unknown_tokens": 0}
    _fill(writers, counts, config, tokenizer, progress)
    shards = {split: writers[split].finish() for split in SPLITS}
    for split in SPLITS:
        if not shards[split]:
            raise EmptyCorpusError(
                f"the {split} split of {', '.join(config.text)} does not fill one sequence of {config.context_length} tokens "
                f"({counts[split]} of {counts['read']} documents, {counts['empty']} of them without text). "
                "Give more text, or a smaller corpus.context_length"
            )
    _warn(counts, config, sum(shard.sequences for shard in shards["train"]) * config.context_length)
    digest = sequences_digest([shard for split in SPLITS for shard in shards[split]])
    check_text_is_the_same(config, text, "before it was read")
    manifest = CorpusManifest(
        config=config,
        text_digest=text.digest,
        tokenizer_digest=tokenizer.digest,
        bos_token_id=tokenizer.bos_token_id,
        documents=counts,
        digest=digest,
        **shards,
    )
    write_text_record(place, text)
    write_corpus_manifest(place, manifest)
    return TokenCorpus(place)


def sequences_to_ipc(tokens: np.ndarray, first: int) -> pa.Buffer:
    """Packed sequences, the first numbered `first`, as one Arrow IPC file: columns `sequence_id`, `tokens`."""
    ids = pa.array(np.arange(first, first + len(tokens), dtype=np.uint64))
    flat = pa.array(np.ascontiguousarray(tokens, dtype=np.uint32).reshape(-1))
    table = pa.table({"sequence_id": ids, "tokens": pa.FixedSizeListArray.from_arrays(flat, tokens.shape[1])})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def sequences_from_ipc(buffer: pa.Buffer, first: int, stop: int, context_length: int) -> UInt32[np.ndarray, "sequence position"]:
    """The tokens of the sequences `[first, stop)` in an object that `sequences_to_ipc` wrote.

    Raises:
        ArrowFileError: the object is not of this form, or holds other sequences.
    """
    schema = pa.schema([("sequence_id", pa.uint64()), ("tokens", pa.list_(pa.uint32(), context_length))])
    file = ArrowFile(buffer, schema, max(1, stop - first))
    if file.num_rows != stop - first or file.num_batches != 1:
        raise ArrowFileError(f"it has {file.num_rows:,} sequences, expected {stop - first:,}")
    if not np.array_equal(file.values(0, 0).to_numpy(), np.arange(first, stop, dtype=np.uint64)):
        raise ArrowFileError(f"its sequences are not those from {first:,} to {stop - 1:,}")
    tokens: UInt32[np.ndarray, "sequence position"] = file.values(1, 0).to_numpy().reshape(-1, context_length)
    return tokens


class _SplitWriter:
    """Packs the running text of one split and writes each full shard."""

    def __init__(self, place: Place, split: Split, config: CorpusConfig, tokenizer: Tokenizer) -> None:
        self.place, self.split, self.tokenizer = place, split, tokenizer
        self.body = config.context_length - 1
        wanted = config.train_tokens if split == "train" else config.held_out_tokens
        self.sequences_wanted = None if wanted is None else -(-wanted // config.context_length)
        self.pending: list[np.ndarray] = []
        self.pending_tokens = 0
        self.shards: list[TokenShard] = []
        self.written = 0

    @property
    def full(self) -> bool:
        return self.pending_tokens // self.body >= self.room

    @property
    def room(self) -> float:
        """Sequences that may still be written."""
        return math.inf if self.sequences_wanted is None else self.sequences_wanted - self.written

    def add(self, tokens: list[int]) -> None:
        self.pending.append(np.array([*tokens, self.tokenizer.eos_token_id], dtype=np.uint32))
        self.pending_tokens += len(tokens) + 1
        while self.pending_tokens >= SEQUENCES_PER_SHARD * self.body and self.room >= SEQUENCES_PER_SHARD:
            self._write(SEQUENCES_PER_SHARD)

    def finish(self) -> list[TokenShard]:
        remaining = int(min(self.pending_tokens // self.body, self.room))
        if remaining > 0:
            self._write(remaining)
        return self.shards

    def _write(self, sequences: int) -> None:
        stream = np.concatenate(self.pending)
        rows = np.empty((sequences, self.body + 1), np.uint32)
        rows[:, 0] = self.tokenizer.bos_token_id
        rows[:, 1:] = stream[: sequences * self.body].reshape(sequences, self.body)
        self.pending = [stream[sequences * self.body :]]
        self.pending_tokens = len(self.pending[0])
        key = shard_key(self.split, len(self.shards))
        data = sequences_to_ipc(rows, self.written)
        self.place.put(key, data)
        self.shards.append(TokenShard(key=key, sequences=sequences, sha256=sha256_hex(data)))
        self.written += sequences


def _fill(
    writers: dict[Split, _SplitWriter], counts: dict[str, int], config: CorpusConfig, tokenizer: Tokenizer, progress: Callable[[int], None]
) -> None:
    for group in _grouped(split_documents(config, counts)):
        wanted = [(split, text) for split, text in group if not writers[split].full]
        for (split, _), tokens in zip(wanted, tokenizer.encode([text for _, text in wanted]), strict=True):
            if not writers[split].full:
                writers[split].add(tokens)
                counts[split] += 1
                counts["unknown_tokens"] += 0 if tokenizer.unknown_token_id is None else tokens.count(tokenizer.unknown_token_id)
                progress(len(tokens) if split == "train" else 0)
        if all(writer.full for writer in writers.values()):
            return


def _warn(counts: dict[str, int], config: CorpusConfig, train_tokens: int) -> None:
    if counts["empty"] and config.text != [DEPENDENCIES]:  # packages hold empty modules
        logger.warning(
            "%d of %d documents have no text (a blank file, or field %r is null or absent)", counts["empty"], counts["read"], config.text_field
        )
    if counts["with_separator"] > counts["read"] / 100:
        logger.warning(
            "%d documents hold the text %s. It is tokenised as plain text. In .txt files a line with nothing else separates documents",
            counts["with_separator"],
            SEPARATOR,
        )
    if counts["unknown_tokens"] > train_tokens / 100:
        logger.warning(
            "%d tokens are the tokenizer's unknown token. It is a special token, so no activation of it is stored. Is this the text's tokenizer?",
            counts["unknown_tokens"],
        )


def _grouped(items: Iterator[tuple[Split, str]]) -> Iterator[list[tuple[Split, str]]]:
    group: list[tuple[Split, str]] = []
    for item in items:
        group.append(item)
        if len(group) == DOCUMENTS_PER_ENCODING:
            yield group
            group = []
    if group:
        yield group


def _check_same(manifest: CorpusManifest, config: CorpusConfig, tokenizer: Tokenizer, place: Place) -> None:
    found, wanted = manifest.config.model_dump(), config.model_dump()
    differing = [f"corpus.{name} (there {found[name]!r}, now {wanted[name]!r})" for name in wanted if found[name] != wanted[name]]
    if manifest.tokenizer_digest != tokenizer.digest:
        differing.append("the tokenizer")
    if differing:
        raise PlanError(f"{place.url} holds a corpus made with another plan: {'; '.join(differing)}. Choose another output, or delete it")
