"""Text sources: where documents come from.

A source is one string:

- `dependencies`: the text of the pinned dependencies (see `sae.corpus.dependencies`);
- `hf:NAME[:CONFIG[:SPLIT]]`: a dataset of the Hugging Face hub, streamed through `datasets`;
- anything else: a local file, directory or glob (see `sae.corpus.files`). `.jsonl`, `.ndjson` and `.json` hold one JSON object a line and
  `.parquet` one row a document; both are read in the configured text field. `.txt`, `.md` and source code are one document a file, or
  several between lines that hold nothing but `<|endoftext|>`. All but Parquet may be compressed (`.gz`, `.zst`). Other files are refused.
"""

from collections.abc import Iterator

import pyarrow as pa
from pydantic import Field, PositiveInt

from sae.config import Config, Locations, Name, Real
from sae.corpus.dependencies import dependency_documents
from sae.corpus.files import check_file, file_texts, find_files
from sae.corpus.formats import TextField, shown
from sae.errors import InputError

DEPENDENCIES = "dependencies"
# `datasets` passes on what its file systems, parsers and HTTP clients raise.
_HUB_RAISES = (OSError, ValueError, TypeError, AttributeError, LookupError, RuntimeError, ImportError, EOFError, pa.ArrowException)


class CorpusConfig(Config):
    """Configuration of the corpus: its text, and how much of it."""

    text: Locations = Field([DEPENDENCIES], min_length=1, max_length=10_000, description="sources: `dependencies`, `hf:NAME`, paths or globs")
    text_field: Name = Field("text", description="the field that holds the text in JSONL, Parquet and hub datasets; `a.b`: field b of a")
    context_length: PositiveInt = Field(256, ge=2, le=2**20, description="tokens in a packed sequence, its first BOS included")
    train_tokens: PositiveInt | None = Field(None, le=10**13, description="tokens of the training split; null takes all there are")
    held_out_tokens: PositiveInt | None = Field(None, le=10**13, description="tokens of the held-out split; null takes all there are")
    held_out_fraction: Real = Field(0.05, gt=0, lt=1, description="share of documents (by content hash) that training never sees")


def documents(config: CorpusConfig) -> Iterator[tuple[str, str]]:
    """Yield `(name, text)` of every document of every source, in an order that depends on nothing but their content and paths.

    The text is empty where a record has none (its field is null or absent).

    Raises:
        InputError: a path that matches nothing, a file that cannot be read or is not text, a field that is not there.
    """
    for source in config.text:
        _check_source(source)
        if source == DEPENDENCIES:
            yield from dependency_documents()
        elif source.startswith("hf:"):
            yield from TextField(config.text_field).texts(_hub_records(source), source)
        else:
            for path, file_format in find_files(source):
                yield from file_texts(path, file_format, config.text_field)


def check_sources(config: CorpusConfig) -> None:
    """Check what can be checked without reading the text: that each file is there, its format, its text field in the first records.

    Raises:
        InputError: as `documents`.
    """
    for source in config.text:
        _check_source(source)
        if source != DEPENDENCIES and not source.startswith("hf:"):
            for path, file_format in find_files(source):
                check_file(path, file_format, config.text_field)


def _check_source(source: str) -> None:
    if "://" in source:
        raise InputError(f"corpus.text has {shown(source)!r}: text is read from local files, `dependencies` or `hf:NAME`. Copy it to this machine")
    try:
        source.encode()
    except UnicodeEncodeError:
        raise InputError(f"corpus.text has {shown(source)!r}, which is not UTF-8. Rename the file") from None


def _hub_records(source: str) -> Iterator[tuple[str, dict[str, object]]]:
    import datasets  # two seconds of import that other sources need not pay
    from httpx2 import HTTPError  # of the client that huggingface_hub uses

    name, config_name, split = [*source.removeprefix("hf:").split(":"), "", ""][:3]
    try:
        rows = datasets.load_dataset(name, config_name or None, split=split or "train", streaming=True)
        for number, row in enumerate(rows):
            yield f"{source}:{number}", dict(row)
    except (*_HUB_RAISES, datasets.exceptions.DatasetsError, HTTPError) as error:
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        raise InputError(f"cannot read the dataset {shown(source)!r}: {reason} (is the hub reachable and the name right?)") from None
