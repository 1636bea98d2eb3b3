"""Text sources: where documents come from.

A source is one string:

- `dependencies`: the text of the pinned dependencies (see `sae.corpus.dependencies`);
- `hf:NAME[:CONFIG[:SPLIT]]`: a dataset of the Hugging Face hub, streamed through `datasets`;
- anything else: a local path or glob. `.jsonl` and `.jsonl.gz` hold one JSON object a line, `.parquet` one row a document (both
  read the configured text field); every other file is one document.
"""

import glob
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, PositiveInt

from sae.config import Config, Locations, Name, Real
from sae.corpus.dependencies import dependency_documents
from sae.errors import InputError


class CorpusConfig(Config):
    """Which text becomes the corpus, and how much of it."""

    text: Locations = Field(["dependencies"], min_length=1, max_length=10_000, description="sources: `dependencies`, `hf:NAME`, paths or globs")
    text_field: Name = Field("text", description="the field that holds the text in JSONL, Parquet and hub datasets")
    context_length: PositiveInt = Field(256, ge=2, le=2**20, description="tokens in a packed sequence, its first BOS included")
    train_tokens: PositiveInt | None = Field(None, le=10**13, description="tokens of the training split; null takes all there are")
    held_out_tokens: PositiveInt | None = Field(None, le=10**13, description="tokens of the held-out split; null takes all there are")
    held_out_fraction: Real = Field(0.05, gt=0, lt=1, description="share of documents (by content hash) that training never sees")


def documents(config: CorpusConfig) -> Iterator[tuple[str, str]]:
    """Yield `(name, text)` of every document of every source, in an order that depends on nothing but their content and paths.

    Raises:
        InputError: a path that matches nothing, a file that cannot be read, a field that is not there.
    """
    for source in config.text:
        if source == "dependencies":
            yield from dependency_documents()
        elif source.startswith("hf:"):
            yield from _hub_documents(source, config.text_field)
        else:
            yield from _local_documents(source, config.text_field)


def _local_documents(pattern: str, field: str) -> Iterator[tuple[str, str]]:
    expanded = os.path.expanduser(pattern)
    if os.path.isdir(expanded):
        expanded = os.path.join(expanded, "**", "*")
    paths = sorted(path for path in map(Path, glob.glob(expanded, recursive=True)) if path.is_file())
    if not paths:
        raise InputError(f"no file matches {pattern!r} (looked from {os.getcwd()}): check the path or glob of `corpus.text`")
    for path in paths:
        try:
            yield from _file_documents(path, field)
        except (OSError, EOFError, pa.ArrowInvalid) as error:
            raise InputError(f"cannot read {path}: {error}") from None


def _file_documents(path: Path, field: str) -> Iterator[tuple[str, str]]:
    name = path.name.lower()
    if name.endswith((".jsonl", ".jsonl.gz")):
        with fsspec.open(path, "rt", encoding="utf-8", compression="infer") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield f"{path}:{number}", _text_of(_json_line(line, path, number), field, f"{path}:{number}")
    elif name.endswith(".parquet"):
        file = pq.ParquetFile(path)
        if field not in file.schema_arrow.names:
            raise InputError(f"{path} has no column {field!r} but {', '.join(file.schema_arrow.names)}: set corpus.text_field")
        rows = (row for batch in file.iter_batches(columns=[field]) for row in batch.column(0))
        yield from ((f"{path}:{number}", row.as_py() or "") for number, row in enumerate(rows))
    else:
        yield str(path), path.read_text(encoding="utf-8", errors="replace")


def _json_line(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise InputError(f"{path}:{number} is not valid JSON ({error}): expected one object a line") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}:{number} holds a {type(value).__name__}: expected one object a line")
    return value


def _text_of(record: dict[str, Any], field: str, where: str) -> str:
    text = record.get(field)
    if not isinstance(text, str):
        raise InputError(f"{where} has no text in field {field!r} but the fields {', '.join(map(str, record))}: set corpus.text_field")
    return text


def _hub_documents(source: str, field: str) -> Iterator[tuple[str, str]]:
    import datasets  # two seconds of import that other sources need not pay

    name, config_name, split = [*source.removeprefix("hf:").split(":"), "", ""][:3]
    try:
        rows = datasets.load_dataset(name, config_name or None, split=split or "train", streaming=True)
        for number, row in enumerate(rows):
            yield f"{source}:{number}", _text_of(dict(row), field, f"{source}:{number}")
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"cannot read the dataset {source!r}: {reason} (is the hub reachable and the name right?)") from None
