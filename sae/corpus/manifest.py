"""The manifest of a corpus: what it holds, sealed with a digest over all its fields, and proven when it is read."""

import hashlib
from typing import Any

from pydantic import Field, NonNegativeInt, PositiveInt

from sae.config import Config
from sae.corpus.sources import CorpusConfig
from sae.errors import ConfigError, CorruptObjectError, InputError
from sae.storage import Place, sealed

CORPUS_MANIFEST_KEY = "manifest.json"
SEQUENCES_PER_SHARD = 4096
_SEAL = "seal"


class TokenShard(Config):
    """One object of packed sequences."""

    key: str
    sequences: PositiveInt = Field(le=SEQUENCES_PER_SHARD)
    sha256: str


class CorpusManifest(Config):
    """Manifest of a corpus."""

    config: CorpusConfig
    text_digest: str = Field(description="of the record of the text (`sae.corpus.text_record`)")
    tokenizer_digest: str
    bos_token_id: NonNegativeInt = Field(lt=2**32)
    documents: dict[str, NonNegativeInt]
    train: list[TokenShard] = Field(min_length=1)
    held_out: list[TokenShard] = Field(min_length=1)
    digest: str = Field(description="names the sequences wherever their text came from, and is what later stages pin: sha256 over the shards'")

    def num_sequences(self, split: str) -> int:
        """Sequences of a split."""
        return sum(shard.sequences for shard in self.shards(split))

    def shards(self, split: str) -> list[TokenShard]:
        """The shards of a split, in order."""
        return self.train if split == "train" else self.held_out


def shard_key(split: str, number: int) -> str:
    """Where a shard of a split lies in its corpus."""
    return f"{split}/{number:06d}.arrow"


def sequences_digest(shards: list[TokenShard]) -> str:
    """The digest of a corpus of these shards, those of the training split first."""
    return hashlib.sha256("".join(shard.sha256 for shard in shards).encode()).hexdigest()


def write_corpus_manifest(place: Place, manifest: CorpusManifest) -> None:
    """Write the manifest with a seal: a digest over all its fields, `digest` among them."""
    content = manifest.model_dump(mode="json")
    place.put_json(CORPUS_MANIFEST_KEY, {**content, _SEAL: _seal(content)})


def read_corpus_manifest(place: Place) -> CorpusManifest:
    """The proven manifest of the corpus at `place`.

    Raises:
        InputError: there is none, or one of another release.
        CorruptObjectError: it was changed after it was written, or does not fit itself.
    """
    path, found = place.path(CORPUS_MANIFEST_KEY), place.get_json(CORPUS_MANIFEST_KEY)
    if not isinstance(found, dict) or "tokenizer_digest" not in found:
        raise InputError(f"{path} is not the manifest of a corpus: check the path, or delete it and prepare the corpus again")
    if _SEAL not in found:
        raise InputError(f"{path} was written by an older version, which did not seal it: prepare the corpus again, in another place")
    content = {name: value for name, value in found.items() if name != _SEAL}
    if _seal(content) != found[_SEAL]:
        raise _untrusted(path, "it was changed after it was written")
    try:
        manifest = CorpusManifest.parse(content)
    except ConfigError as error:
        raise _untrusted(path, str(error)) from None
    if problem := _problem(manifest):
        raise _untrusted(path, problem)
    return manifest


def _problem(manifest: CorpusManifest) -> str | None:
    if lacking := {"read", "duplicates", "train", "held_out"} - manifest.documents.keys():
        return f"it does not say how many documents were {' or '.join(sorted(lacking))}"
    for split in ("train", "held_out"):
        shards = manifest.shards(split)
        if [shard.key for shard in shards] != [shard_key(split, number) for number in range(len(shards))]:
            return f"the objects of its {split} split have other names than {shard_key(split, 0)} and on"
        if any(shard.sequences != SEQUENCES_PER_SHARD for shard in shards[:-1]):
            return f"an object of its {split} split before the last does not have {SEQUENCES_PER_SHARD:,} sequences"
        if len({shard.sha256 for shard in shards}) < len(shards):
            return f"two objects of its {split} split are the same"
    if sequences_digest([*manifest.train, *manifest.held_out]) != manifest.digest:
        return "its digest is not that of its objects"
    return None


def _seal(content: dict[str, Any]) -> str:
    seal: str = sealed(content)["digest"]
    return seal


def _untrusted(path: str, reason: str) -> CorruptObjectError:
    return CorruptObjectError(f"{path} cannot be trusted, {reason}: delete the corpus and prepare it again")
