"""Checks that take seconds, before Ray is started and anything is written: output, sizes, text and subject model."""

import os
import socket
from collections.abc import Sequence

from jobs.config import RunConfig
from jobs.estimates import Widths, check_estimates, describe_extent, this_machine
from jobs.model_sizes import hookpoint_width, model_configuration, vocabulary_size
from sae.concepts.labelled import check_labelled
from sae.config import shown
from sae.corpus.files import find_files
from sae.corpus.manifest import CORPUS_MANIFEST_KEY
from sae.corpus.sources import DEPENDENCIES, CorpusConfig, check_sources
from sae.errors import ConfigError, InputError, MonosemError
from sae.log import log
from sae.provenance import described_dictionaries
from sae.run.layout import CONFIG_KEY
from sae.storage import Place, check_output_url
from sae.store import MANIFEST_KEY, PLAN_KEY, read_plan
from sae.subject.check import check_subject
from services.cluster.config import ClusterConfig

TOKENS_PER_BYTE = 1 / 4  # of English text and usual tokenizers
MOST_TOKENS_PER_BYTE = 1 / 2  # text that has fewer bytes than this asks for is too short, whatever the tokenizer
EXPANSION = {".gz": 10, ".zst": 10, ".parquet": 5}  # of compressed text, at most as a rule


def check_run(config: RunConfig, stages: Sequence[str], from_scratch: bool = False) -> None:
    """Refuse what would fail later, and log what will be surprising.

    Args:
        config: the run.
        stages: that will run.
        from_scratch: the first of them makes the subject model.

    Raises:
        UserError: the output cannot be written to, a stage needs more than the machine has, or text or subject model cannot be used.
    """
    _check_directory("output", config.output)
    if config.store is not None and "harvest" in stages:
        _check_directory("store", config.store)
    check_metrics(config.cluster)
    check_estimates(config, stages, this_machine(config), known_widths(config, from_scratch))
    _check_inputs(config, stages)
    if "harvest" in stages:
        check_harvest(config, subject_exists=not from_scratch)
    if "pretrain" in stages:
        check_sources(config.pretraining.corpus)
    if "evaluate" in stages and config.evaluation.text is not None:
        check_sources(config.corpus.model_copy(update={"text": config.evaluation.text}))
    if "concepts" in stages or ("evaluate" in stages and config.evaluation.concepts.text is not None):
        if config.evaluation.concepts.text is None:
            raise ConfigError("evaluation.concepts.text is null: name a JSONL file with a text and a label on each line")
        check_labelled(config.evaluation.concepts)
    if {"harvest", "train"} & set(stages):
        log("extent", **describe_extent(config, stages), advice="`monosem plan` estimates time and memory")


def check_harvest(config: RunConfig, subject_exists: bool = True) -> None:
    """Check text and subject model, before hours of tokenising.

    Args:
        config: the run.
        subject_exists: false where an earlier stage of the command makes the subject model.

    Raises:
        UserError: a file of text, its text field, the model, a hookpoint or the context length cannot be used.
    """
    if not Place(config.corpus_url).exists(CORPUS_MANIFEST_KEY):  # a finished corpus needs its text no more
        check_sources(config.corpus)
        if advice := short_text(config.corpus):
            log("text_is_short", advice=advice)
    if subject_exists:
        check_subject(config.subject, config.harvest.hookpoints, config.corpus.context_length)


def check_metrics(cluster: ClusterConfig) -> None:
    """Open the address of `/metrics` for a moment: what is wrong with it would otherwise end the command after Ray has started.

    Raises:
        ConfigError: there is no such address here, or the port is taken.
    """
    if cluster.metrics_port is None:
        return
    where = (cluster.metrics_host, cluster.metrics_port)
    try:
        family, kind, _, _, address = socket.getaddrinfo(*where, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(address)
    except (OSError, UnicodeError) as error:
        key, remedy = ("host", "an address of this machine") if isinstance(error, socket.gaierror | UnicodeError) else ("port", "another port, or 0")
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"cluster.metrics_{key}: /metrics cannot listen on {where[0]!r}, port {where[1]}: {reason}. Give {remedy}") from None


def _check_inputs(config: RunConfig, stages: Sequence[str]) -> None:
    """Check that earlier commands have left what this one does not make itself."""
    if "harvest" in stages and "train" in stages:
        for dictionary in config.training.dictionaries:
            if dictionary.target_hookpoint is not None and dictionary.target_hookpoint not in config.harvest.hookpoints:
                raise ConfigError(
                    f"training.dictionaries.{dictionary.name}.target_hookpoint: {shown(dictionary.target_hookpoint)} is not harvested "
                    f"(harvest.hookpoints has {', '.join(config.harvest.hookpoints)}). Add it to harvest.hookpoints"
                )
    store = Place(config.store_url)
    if "harvest" not in stages and {"train", "evaluate", "interpret"} & set(stages) and not store.exists(MANIFEST_KEY):
        state = "an unfinished store" if store.exists(PLAN_KEY) else "no store"
        raise InputError(f"{store.url} holds {state}: run `monosem harvest` first, or set `store` to the URL of a finished one")
    if "train" not in stages and {"evaluate", "interpret", "concepts"} & set(stages):
        described_dictionaries(config.dictionary_urls, "measure")
    shuffled = config.interpretation.controls.shuffled_run
    if "interpret" in stages and shuffled is not None and not Place(shuffled).exists(CONFIG_KEY):
        raise InputError(
            f"interpretation.controls.shuffled_run: there is no run at {shown(shuffled)} (no {CONFIG_KEY}). Make it first, or set it to null"
        )


def text_tokens(config: CorpusConfig, tokens_per_byte: float = TOKENS_PER_BYTE) -> int | None:
    """Tokens of local text, estimated from its size; None where a source is no local file."""
    return None if (size := _text_bytes(config)) is None else int(size * tokens_per_byte)


def short_text(config: CorpusConfig, tokens_per_byte: float | None = None) -> str | None:
    """Warn where local text has fewer tokens than a run asks for; None where it has enough, or nothing is known.

    Args:
        config: of the text.
        tokens_per_byte: of this text, where it was measured.
    """
    size = _text_bytes(config)
    wanted = (config.train_tokens or 0) + (config.held_out_tokens or 0)
    if size is None or size * (tokens_per_byte or MOST_TOKENS_PER_BYTE) >= wanted:
        return None
    return (
        f"corpus.text has about {int(size * (tokens_per_byte or TOKENS_PER_BYTE)):,} tokens ({size:,} bytes). "
        f"corpus.train_tokens and corpus.held_out_tokens ask for {wanted:,}: all of the text will be used"
    )


def known_widths(config: RunConfig, from_scratch: bool = False) -> Widths:
    """Find the subject's sizes without loading it: from the store, else from the model's own configuration, else 1."""
    transformer = config.pretraining.transformer
    made = {"n_embd": transformer.d_model, "n_inner": transformer.d_mlp, "n_head": transformer.num_heads, "vocab_size": transformer.vocab_size}
    found = made if from_scratch else model_configuration(config.subject.model)
    widths = {hookpoint: hookpoint_width(found, hookpoint) for hookpoint in (config.hookpoint, *config.harvest.hookpoints)}
    try:
        store = Place(config.store_url)
        if store.exists(PLAN_KEY):
            widths |= read_plan(store).hookpoints
    except MonosemError:
        pass  # the stage that reads the store says what is wrong with it
    return Widths(widths[config.hookpoint], vocabulary_size(found), sum(widths[hookpoint] for hookpoint in config.harvest.hookpoints))


def _text_bytes(config: CorpusConfig) -> int | None:
    """Bytes of the text once decompressed, estimated from the sizes of its files; None where a source is no local file."""
    if any(source == DEPENDENCIES or source.startswith("hf:") for source in config.text):
        return None
    files = [path for source in config.text for path, _ in find_files(source)]
    return int(sum(path.stat().st_size * EXPANSION.get(path.suffix.lower(), 1) for path in files))


def _check_directory(key: str, url: str) -> None:
    """Refuse an output that is no directory or cannot be written to, without writing there."""
    check_output_url(url)
    path = Place(url).local_path()
    if path is None:
        return
    try:
        found = next(each for each in (path, *path.parents) if os.path.lexists(each))
    except OSError as error:
        raise InputError(f"{key}: cannot use {str(path)!r}: {error.strerror}. Choose another directory") from None
    if not found.is_dir():
        raise InputError(f"{key}: {str(found)!r} is a file, and a directory is needed. Choose another path")
    if not os.access(found, os.W_OK | os.X_OK):
        raise InputError(f"{key}: {str(found)!r} cannot be written to. Choose another path, or change its permissions")
