"""Labelled text to tokens: which sequences a subject model is run on, and which of their tokens detectors are selected and measured on."""

import contextlib
import hashlib
import io
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any

import numpy as np
from pydantic import AfterValidator, Field, PositiveInt

from sae.config import Config, Locations, Name, Seed, refuse_repetition
from sae.corpus.formats import decompressed, json_records, recognise, shown
from sae.corpus.formats.recognition import COMPRESSION_SUFFIXES, Compression
from sae.corpus.splitting import normal_form
from sae.errors import InputError
from sae.storage import Place
from sae.subject.tokenization import SubjectTokenizer

MAX_LABELS = 1000


class ConceptsConfig(Config):
    """Labelled text, and how much of it detectors are selected and measured on."""

    text: Locations | None = Field(
        None, min_length=1, max_length=1000, description="JSONL files (.gz too) of labelled documents, paths or URLs; null: no concept detection"
    )
    text_field: Name = Field("text", description="the field that holds the text")
    label_field: Name = Field("label", description="the field that holds the label")
    sequences_per_label: PositiveInt = Field(128, ge=2, le=10**6, description="sequences of each label in either half, at most")
    tokens_per_sequence: PositiveInt = Field(16, le=2**20, description="tokens drawn from each sequence, at most")
    probe_sizes: Annotated[list[Annotated[PositiveInt, Field(le=4096)]], AfterValidator(refuse_repetition)] = Field(
        [2, 5], max_length=16, description="k of the k-sparse probes, in addition to single features and neurons"
    )
    seed: Seed = Field(0, description="seed of the draws and of the bootstrap")


@dataclass(frozen=True)
class LabelledDocuments:
    """Documents with their labels: each text once.

    Attributes:
        labels: the names, sorted.
        texts: the documents.
        label_ids: int64, index of each document's label.
        held_out: bool, whether it belongs to the half on which detectors are measured; the other half is that of their selection.
        digest: of texts and labels.
    """

    labels: list[str]
    texts: list[str]
    label_ids: np.ndarray
    held_out: np.ndarray
    digest: str


@dataclass(frozen=True)
class LabelledTokens:
    """Sequences of labelled documents, and the tokens drawn from them.

    Attributes:
        labels: the names.
        sequences: uint32 `[sequences, context_length]`: BOS, then a piece of one document, then EOS up to the end.
        lengths: int64, tokens of each sequence that are not such filling.
        label_ids: int64, the label of each sequence.
        held_out: bool, the half it belongs to.
        rows: int64 `[tokens]`, the sequence of each drawn token, ascending.
        positions: int64 `[tokens]`, where it stands there.
        digest: of the documents.
    """

    labels: list[str]
    sequences: np.ndarray
    lengths: np.ndarray
    label_ids: np.ndarray
    held_out: np.ndarray
    rows: np.ndarray
    positions: np.ndarray
    digest: str


def read_labelled(config: ConceptsConfig) -> LabelledDocuments:
    """Read the labelled text; of each label, documents fall into the two halves in turn, ordered by a digest of their text.

    Documents of one normal form (`sae.corpus.splitting.normal_form`) fall into the same half.

    Raises:
        InputError: no such file, a line that is no labelled document, fewer than two labels, or a label with fewer than two documents.
    """
    paths = config.text or []
    found: dict[str, str] = {}
    for where, record in itertools.chain.from_iterable(map(_records, paths)):
        text, label = _document(record, config, where)
        if found.setdefault(text, label) != label:
            raise InputError(f"{where} repeats a text under the label {label!r}, before it was {found[text]!r}: label it once")
    return _halves(found, ", ".join(paths))


def check_labelled(config: ConceptsConfig) -> None:
    """Read the first document of each file of labelled text, to find a wrong path or field before anything is computed.

    Raises:
        InputError: no such file, or its first line is no labelled document.
    """
    for path in config.text or []:
        for where, record in itertools.islice(_records(path), 1):
            _document(record, config, where)


def label_tokens(documents: LabelledDocuments, tokenizer: SubjectTokenizer, context_length: int, config: ConceptsConfig) -> LabelledTokens:
    """Cut documents into sequences and draw tokens: of each label and half at most `sequences_per_label` sequences.

    Args:
        documents: with labels and halves.
        tokenizer: of the subject model.
        context_length: tokens in a sequence, its BOS included.
        config: how many, and the seed.

    Raises:
        InputError: a label that has no token in one of the halves.
    """
    draw = np.random.default_rng(config.seed)
    pieces = [_pieces(tokens, context_length - 1) for tokens in tokenizer.encode(documents.texts)]
    chosen: list[tuple[int, bool, list[int]]] = []
    for label in range(len(documents.labels)):
        for held_out in (False, True):
            members = np.flatnonzero((documents.label_ids == label) & (documents.held_out == held_out))
            there = [piece for document in members for piece in pieces[document]]
            if not there:
                raise InputError(f"the label {documents.labels[label]!r} has no token in one half of its documents: give it longer ones")
            order = draw.permutation(len(there))[: config.sequences_per_label]
            chosen += [(label, held_out, there[index]) for index in sorted(order)]
    sequences = np.full((len(chosen), context_length), tokenizer.eos_token_id, np.uint32)
    sequences[:, 0] = tokenizer.bos_token_id
    for row, (_, _, piece) in enumerate(chosen):
        sequences[row, 1 : 1 + len(piece)] = piece
    lengths = np.array([1 + len(piece) for *_, piece in chosen])
    positions = [np.sort(1 + draw.permutation(length - 1)[: config.tokens_per_sequence]) for length in lengths]
    return LabelledTokens(
        labels=documents.labels,
        sequences=sequences,
        lengths=lengths,
        label_ids=np.array([label for label, *_ in chosen]),
        held_out=np.array([held_out for _, held_out, _ in chosen]),
        rows=np.repeat(np.arange(len(chosen)), [len(each) for each in positions]),
        positions=np.concatenate(positions),
        digest=documents.digest,
    )


def _records(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    with _opened(path) as (stream, compression):
        yield from json_records(decompressed(stream, compression, shown(path)), shown(path))


@contextlib.contextmanager
def _opened(path: str) -> Iterator[tuple[IO[bytes], Compression | None]]:
    if "://" in path:
        directory, _, name = path.rpartition("/")
        yield io.BytesIO(Place(directory).get(name)), COMPRESSION_SUFFIXES.get(Path(name).suffix.lower())
        return
    local = Path(os.path.expanduser(path))
    if not os.path.lexists(local):
        raise InputError(f"there is no labelled text at {shown(path)!r}. Check evaluation.concepts.text")
    content, compression = recognise(local)
    if content != "json_lines":
        raise InputError(f"{shown(path)} is not read as labelled text: expected JSON lines (.jsonl, .jsonl.gz). Check evaluation.concepts.text")
    with open(local, "rb") as stream:  # `recognise` has read from it, so it can be opened
        yield stream, compression


def _document(record: dict[str, Any], config: ConceptsConfig, where: str) -> tuple[str, str]:
    text, label = (record.get(field) for field in (config.text_field, config.label_field))
    if not (isinstance(text, str) and isinstance(label, str) and text.strip() and label.strip()):
        keys = ", ".join(record)
        raise InputError(f"{where} holds {keys[:200]}, expected texts under {config.text_field!r} and {config.label_field!r}: set the fields' names")
    return text, label


def _halves(found: dict[str, str], path: str) -> LabelledDocuments:
    labels = sorted(set(found.values()))
    if len(labels) < 2:
        raise InputError(f"{shown(path)} has {labels or 'no label'} as its only class: a detector needs at least two labels to tell apart")
    if len(labels) > MAX_LABELS:
        raise InputError(
            f"{shown(path)} has {len(labels)} labels, at most {MAX_LABELS} make sense: is evaluation.concepts.label_field the right one?"
        )
    texts, label_ids, held_out = [], [], []
    for index, label in enumerate(labels):
        members = sorted((text for text, its in found.items() if its == label), key=_digest)
        if len(members) < 2:
            raise InputError(f"the label {label!r} of {path} has {len(members)} document: one is selected on, another measured on; give it two")
        texts += members
        label_ids += [index] * len(members)
        held_out += _alternate(members)
        if len(set(held_out[-len(members) :])) < 2:
            raise InputError(f"all documents of the label {label!r} of {path} are alike but for case and white space. Give it two that differ")
    digest = hashlib.sha256("".join(_digest(text + "\0" + found[text]) for text in texts).encode()).hexdigest()
    return LabelledDocuments(labels, texts, np.array(label_ids), np.array(held_out), digest)


def _alternate(texts: list[str]) -> list[bool]:
    """Every second text, counting those of one normal form once: texts that are nearly equal must not stand in both halves."""
    halves: dict[str, bool] = {}
    return [halves.setdefault(normal_form(text), len(halves) % 2 == 1) for text in texts]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _pieces(tokens: list[int], length: int) -> list[list[int]]:
    return [tokens[start : start + length] for start in range(0, len(tokens), length)]
