"""Labelled text to tokens: which sequences a subject model is run on, and which of their tokens detectors are selected and measured on."""

import hashlib
import json
from dataclasses import dataclass
from typing import Annotated

import fsspec
import numpy as np
from pydantic import AfterValidator, Field, PositiveInt

from sae.config import Config, Location, Name, Seed, refuse_repetition
from sae.errors import InputError
from sae.tokenization import SubjectTokenizer

MAX_LABELS = 1000


class ConceptsConfig(Config):
    """Labelled text, and how much of it detectors are selected and measured on."""

    text: Location | None = Field(None, description="JSONL file (.gz too) of labelled documents, a path or URL; null: no concept detection")
    text_field: Name = Field("text", description="the field that holds the text")
    label_field: Name = Field("label", description="the field that holds the label")
    sequences_per_label: PositiveInt = Field(128, ge=2, le=10**6, description="sequences of each label in either half, at most")
    tokens_per_sequence: PositiveInt = Field(16, le=2**20, description="tokens drawn from each sequence, at most")
    probe_sizes: Annotated[list[Annotated[PositiveInt, Field(le=4096)]], AfterValidator(refuse_repetition)] = Field(
        [2, 5], max_length=16, description="k of the k-sparse probes beside single features and neurons"
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

    Raises:
        InputError: no such file, a line that is no labelled document, fewer than two labels, or a label with fewer than two documents.
    """
    path = str(config.text)
    found: dict[str, str] = {}
    try:
        with fsspec.open(path, "rt", encoding="utf-8", compression="infer") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    text, label = _document(line, config, f"{path}:{number}")
                    if found.setdefault(text, label) != label:
                        raise InputError(f"{path}:{number} repeats a text under the label {label!r}, before it was {found[text]!r}: label it once")
    except (OSError, EOFError, UnicodeDecodeError, ValueError, ImportError) as error:
        raise InputError(f"cannot read the labelled text {path!r}: {error} (expected a JSONL file: evaluation.concepts.text)") from None
    return _halves(found, path)


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


def _document(line: str, config: ConceptsConfig, where: str) -> tuple[str, str]:
    try:
        document = json.loads(line)
    except ValueError:
        raise InputError(f"{where} is not JSON: expected one object a line with {config.text_field!r} and {config.label_field!r}") from None
    text, label = (document.get(field) if isinstance(document, dict) else None for field in (config.text_field, config.label_field))
    if not (isinstance(text, str) and isinstance(label, str) and text.strip() and label.strip()):
        keys = ", ".join(document) if isinstance(document, dict) else type(document).__name__
        raise InputError(f"{where} holds {keys[:200]}, expected texts under {config.text_field!r} and {config.label_field!r}: set the fields' names")
    return text, label


def _halves(found: dict[str, str], path: str) -> LabelledDocuments:
    labels = sorted(set(found.values()))
    if len(labels) < 2:
        raise InputError(f"{path} has {labels or 'no label'} as its only class: a detector needs at least two labels to tell apart")
    if len(labels) > MAX_LABELS:
        raise InputError(f"{path} has {len(labels)} labels, at most {MAX_LABELS} make sense: is evaluation.concepts.label_field the right one?")
    texts, label_ids, held_out = [], [], []
    for index, label in enumerate(labels):
        members = sorted((text for text, its in found.items() if its == label), key=_digest)
        if len(members) < 2:
            raise InputError(f"the label {label!r} of {path} has {len(members)} document: one is selected on, another measured on; give it two")
        texts += members
        label_ids += [index] * len(members)
        held_out += [number % 2 == 1 for number in range(len(members))]
    digest = hashlib.sha256("".join(_digest(text + "\0" + found[text]) for text in texts).encode()).hexdigest()
    return LabelledDocuments(labels, texts, np.array(label_ids), np.array(held_out), digest)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()


def _pieces(tokens: list[int], length: int) -> list[list[int]]:
    return [tokens[start : start + length] for start in range(0, len(tokens), length)]
