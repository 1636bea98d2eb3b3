"""Proof that dictionary, store, subject and corpus belong together, before a figure is computed from them.

Each error names both sides. What a dictionary does not say cannot be compared: an imported one may lack digests. That is told in a remark.
"""

from dataclasses import dataclass

from sae.corpus.packing import TokenCorpus
from sae.dictionary_record import CONFIG_KEY, DictionaryRecord, describe_dictionary
from sae.errors import ConfigError, HookpointError, InputError, PlanError, WidthError
from sae.store import Store, StorePlan
from sae.subject.model import Subject

SHOWN_DIGEST = 12  # characters of a digest in a message


@dataclass(frozen=True)
class DescribedDictionaries:
    """Dictionaries of one hookpoint, by name, their descriptions proved.

    Attributes:
        hookpoint: whose activations all of them encode.
        urls: of their directories.
        records: their descriptions; `digest` names each with its weights.
    """

    hookpoint: str
    urls: dict[str, str]
    records: dict[str, DictionaryRecord]

    @property
    def digests(self) -> dict[str, str]:
        """Digest of each dictionary."""
        return {name: record.digest for name, record in self.records.items()}

    @property
    def target_hookpoints(self) -> dict[str, str]:
        """Hookpoints whose activations the transcoders among them reconstruct, by dictionary."""
        return {name: str(record.metadata.target_hookpoint) for name, record in self.records.items() if record.is_transcoder}


def described_dictionaries(urls: dict[str, str], purpose: str) -> DescribedDictionaries:
    """Read and prove the descriptions of dictionaries that share a hookpoint.

    Args:
        urls: their directories by name.
        purpose: verb for messages: "evaluate", "interpret".

    Raises:
        ConfigError: no dictionary, or dictionaries of several hookpoints.
        InputError: one is not there, or does not say where it belongs.
        CorruptObjectError: a description was changed after it was written.
    """
    if not urls:
        raise ConfigError(f"there is no dictionary to {purpose}: name at least one")
    records = {name: describe_dictionary(url) for name, url in urls.items()}
    hookpoints = {name: _hookpoint_of(urls[name], record) for name, record in records.items()}
    if len(set(hookpoints.values())) > 1:
        found = ", ".join(f"{name}: {hookpoint}" for name, hookpoint in hookpoints.items())
        raise ConfigError(f"the dictionaries belong to several hookpoints ({found}): {purpose} those of each hookpoint by themselves")
    return DescribedDictionaries(next(iter(hookpoints.values())), urls, records)


def check_dictionaries(described: DescribedDictionaries, store: Store) -> list[str]:
    """Refuse dictionaries that do not belong to a store; returns remarks about what could not be compared.

    Raises:
        HookpointError: the store lacks a hookpoint of theirs.
        WidthError: a dictionary of another width than its hookpoint.
        PlanError: a dictionary of another subject or store.
    """
    remarks = []
    for name, record in described.records.items():
        remarks += check_dictionary(name, described.urls[name], record, store.plan, store.manifest.digest, store.place.url)
    return remarks


def check_dictionary(name: str, url: str, record: DictionaryRecord, plan: StorePlan, store_digest: str, store_url: str) -> list[str]:
    """Refuse a dictionary that does not belong to a store; returns remarks about what could not be compared.

    Args:
        name: of the dictionary, for messages.
        url: of its directory.
        record: its description.
        plan: of the store.
        store_digest: of the store's manifest.
        store_url: of the store.

    Raises:
        HookpointError, WidthError, PlanError: as `check_dictionaries`.
    """
    _check_widths(name, record, plan, store_url)
    known, remarks = record.metadata, []
    for what, ours, theirs in (("subject", known.subject_digest, plan.subject_digest), ("store", known.store_digest, store_digest)):
        if ours is None:
            remarks.append(f"{name} does not say the digest of its {what}: nothing proves that it belongs to {store_url}")
        elif ours != theirs:
            raise PlanError(
                f"dictionary {name!r} in {url} was trained on the {what} {ours[:SHOWN_DIGEST]!r}, and {store_url} "
                f"{'is' if what == 'store' else 'was made with'} {theirs[:SHOWN_DIGEST]!r}. Use the dictionary with its own {what}, or train it again"
            )
    for what, length, expected in (("context length", known.context_length, plan.context_length), ("precision", known.dtype, plan.dtype)):
        if length is not None and length != expected:
            found = f"{name} was trained on activations of {what} {length}, and {store_url} has {expected}"
            if known.imported is None:
                raise PlanError(f"{found}: use the dictionary with its own store, or train it again")
            remarks.append(found)
    if known.subject_digest is None and known.subject is not None and known.subject != plan.subject:
        remarks.append(f"{name} was trained on the subject {known.subject[:80]!r}, and {store_url} was made with {plan.subject[:80]!r}")
    return remarks


def check_subject(subject: Subject, expected_digest: str, made: str, purpose: str) -> None:
    """Refuse a subject model that is not the one expected.

    Args:
        subject: loaded.
        expected_digest: SHA-256 over the weights in the precision they ran in.
        made: the other side, for the message: "runs/a/store was made".
        purpose: verb for the message.

    Raises:
        PlanError: it is another model, or runs in another precision.
    """
    if subject.digest != expected_digest:
        raise PlanError(
            f"{made} with a subject of the digest {expected_digest[:SHOWN_DIGEST]!r}, not with {subject.config.model!r} in "
            f"{subject.config.dtype} ({subject.digest[:SHOWN_DIGEST]!r}): {purpose} with the same model and dtype"
        )


def check_corpus(corpus: TokenCorpus, store: Store) -> None:
    """Refuse a corpus that a store was not harvested from: its held-out text may be text that dictionaries were trained on.

    Raises:
        PlanError: it is another corpus.
    """
    if store.plan.corpus_digest != corpus.manifest.digest:
        raise PlanError(
            f"{store.place.url} was harvested from another corpus ({store.plan.corpus_digest[:SHOWN_DIGEST]!r}) than {corpus.place.url} "
            f"({corpus.manifest.digest[:SHOWN_DIGEST]!r}): use the corpus of the store"
        )


def check_tokenizer(subject: Subject, corpus: TokenCorpus) -> None:
    """Refuse a corpus that a subject cannot read.

    Raises:
        InputError: it was made with another tokenizer, or has longer sequences than the subject takes.
    """
    manifest, model = corpus.manifest, subject.config.model
    if manifest.tokenizer_digest != subject.tokenizer.digest or manifest.config.context_length > subject.context_length:
        raise InputError(
            f"{corpus.place.url} was made with another tokenizer than that of {model!r}, or has longer sequences ({manifest.config.context_length}) "
            f"than it takes ({subject.context_length}): prepare a corpus with this model"
        )


def _hookpoint_of(url: str, record: DictionaryRecord) -> str:
    known = record.metadata
    if known.hookpoint is None:
        raise InputError(
            f"{url}/{CONFIG_KEY} does not say which hookpoint the dictionary belongs to (metadata.hookpoint). "
            "Train it with this tool, or import it with its hookpoint"
        )
    if record.is_transcoder and known.target_hookpoint is None:
        raise InputError(
            f"{url}/{CONFIG_KEY} is of a transcoder and does not say what it reconstructs (metadata.target_hookpoint). "
            "Train it with this tool, or import it with its target hookpoint"
        )
    return known.hookpoint


def _check_widths(name: str, record: DictionaryRecord, plan: StorePlan, store_url: str) -> None:
    known = record.metadata
    sides = [("d_in", record.d_in, known.hookpoint)]
    if record.is_transcoder:
        sides.append(("d_out", record.d_out or 0, known.target_hookpoint))
    for side, width, hookpoint in sides:
        if hookpoint not in plan.hookpoints:
            raise HookpointError(
                f"{store_url} has no {hookpoint!r}, the hookpoint of dictionary {name!r} (available: {', '.join(sorted(plan.hookpoints))}). "
                "Use the dictionary with its own store"
            )
        if width != plan.hookpoints[hookpoint]:
            raise WidthError(
                f"dictionary {name!r} has {side} {width}, but {hookpoint!r} is {plan.hookpoints[hookpoint]} wide in {store_url}. "
                "Use the dictionary with its own store"
            )
