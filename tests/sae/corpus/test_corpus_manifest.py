"""A corpus that was changed is refused in one line: every field is sealed, every object compared, also where all digests were made to agree."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae.corpus.manifest import (
    CORPUS_MANIFEST_KEY,
    CorpusManifest,
    TokenShard,
    read_corpus_manifest,
    sequences_digest,
    shard_key,
    write_corpus_manifest,
)
from sae.corpus.packing import TokenCorpus, sequences_to_ipc
from sae.corpus.sources import CorpusConfig
from sae.errors import CorruptObjectError, InputError, MonosemError
from sae.storage import Place, sealed, sha256_hex

BOS = 9


def tokens_of(split: str) -> np.ndarray:
    tokens = np.arange(24, dtype=np.uint32).reshape(3, 8) + (100 if split == "train" else 200)
    tokens[:, 0] = BOS
    return tokens


def write_corpus(place: Place) -> TokenCorpus:
    """Three sequences of eight tokens in each split."""
    shards = {}
    for split in ("train", "held_out"):
        data = sequences_to_ipc(tokens_of(split), 0)
        place.put(shard_key(split, 0), data)
        shards[split] = [TokenShard(key=shard_key(split, 0), sequences=3, sha256=sha256_hex(data))]
    documents = {"read": 2, "duplicates": 0, "train": 1, "held_out": 1}
    digest = sequences_digest([*shards["train"], *shards["held_out"]])
    config = CorpusConfig(text=["a.txt"], context_length=8)
    write_corpus_manifest(
        place, CorpusManifest(config=config, text_digest="x", tokenizer_digest="t", bos_token_id=BOS, documents=documents, digest=digest, **shards)
    )
    return TokenCorpus(place)


def reseal(place: Place, change) -> None:
    """Change the manifest; both of its digests are made to agree."""
    content = place.get_json(CORPUS_MANIFEST_KEY)
    del content["seal"]
    change(content)
    content["digest"] = sequences_digest([TokenShard.model_construct(**shard) for split in ("train", "held_out") for shard in content[split]])
    place.put_json(CORPUS_MANIFEST_KEY, {**content, "seal": sealed(content)["digest"]})


@pytest.fixture
def place(tmp_path):
    write_corpus(Place(tmp_path))
    return Place(tmp_path)


def test_it_is_read_as_it_was_written(place):
    np.testing.assert_array_equal(TokenCorpus(place).sequences("train", 0, 3), tokens_of("train"))
    np.testing.assert_array_equal(TokenCorpus(place).sequences("held_out", 1, 3), tokens_of("held_out")[1:])


def test_every_field_of_the_manifest_is_sealed(place):
    whole = place.get_json(CORPUS_MANIFEST_KEY)
    changes = {
        "text_digest": "y", "tokenizer_digest": "other", "bos_token_id": 8, "digest": "0" * 64, "seal": "0" * 64, "train": whole["held_out"],
        "documents": {**whole["documents"], "read": 3}, "config": {**whole["config"], "text": ["b.txt"]},
    }  # fmt: skip
    for field, value in changes.items():
        place.put_json(CORPUS_MANIFEST_KEY, {**whole, field: value})
        with pytest.raises(CorruptObjectError, match=r"manifest\.json cannot be trusted, it was changed after it was written: delete the corpus"):
            TokenCorpus(place)
    assert changes.keys() | {"held_out"} == whole.keys()


def test_a_corpus_of_an_older_release_and_what_is_none_are_told_apart(place):
    whole = place.get_json(CORPUS_MANIFEST_KEY)
    place.put_json(CORPUS_MANIFEST_KEY, {name: value for name, value in whole.items() if name != "seal"})
    with pytest.raises(InputError, match="was written by an older version, which did not seal it: prepare the corpus again"):
        read_corpus_manifest(place)
    place.put_json(CORPUS_MANIFEST_KEY, [])
    with pytest.raises(InputError, match="is not the manifest of a corpus"):
        read_corpus_manifest(place)


LIES = {
    "an object elsewhere": lambda manifest: manifest["train"][0].update(key="../elsewhere.arrow"),
    "the other split's object": lambda manifest: manifest["train"][0].update(manifest["held_out"][0]),
    "more sequences": lambda manifest: manifest["train"][0].update(sequences=4),
    "more than an object holds": lambda manifest: manifest["train"][0].update(sequences=10**9),
    "no object": lambda manifest: manifest["train"].clear(),
    "an object twice": lambda manifest: manifest["train"].append({**manifest["train"][0], "key": shard_key("train", 1)}),
    "longer sequences": lambda manifest: manifest["config"].update(context_length=16),
    "another first token": lambda manifest: manifest.update(bos_token_id=8),
    "no counts": lambda manifest: manifest["documents"].clear(),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_manifest_that_does_not_fit_is_refused_although_its_digests_are_right(place, lie):
    reseal(place, LIES[lie])
    with pytest.raises(CorruptObjectError, match="cannot be trusted, .*: delete the corpus and prepare it again"):
        TokenCorpus(place).sequences("train", 0, 3)


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:-9], lambda data: data[:200] + b"x" + data[201:], None])
def test_a_damaged_object_is_named(place, damage):
    key = shard_key("train", 0)
    if damage:
        place.put(key, damage(place.get(key)))
    else:
        place.delete(key)
    with pytest.raises(CorruptObjectError, match=r"000000\.arrow cannot be trusted"):
        TokenCorpus(place).sequences("train", 0, 1)


def test_sequences_with_other_numbers_are_refused(place):
    data = sequences_to_ipc(tokens_of("train"), 5)
    place.put(shard_key("train", 0), data)
    reseal(place, lambda manifest: manifest["train"][0].update(sha256=sha256_hex(data)))
    with pytest.raises(CorruptObjectError, match="its sequences are not those from 0 to 2"):
        TokenCorpus(place).sequences("train", 0, 1)


@pytest.mark.fuzz
@given(st.data())
def test_any_change_is_refused_or_gives_the_same_sequences(tmp_path_factory, data):
    place = Place(tmp_path_factory.getbasetemp() / "fuzzed-corpus")
    write_corpus(place)
    key = data.draw(st.sampled_from([CORPUS_MANIFEST_KEY, shard_key("train", 0)]))
    whole = place.get(key)
    at, by = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.binary(max_size=9))
    place.put(key, whole[:at] + by + whole[at + data.draw(st.sampled_from([0, 1, len(by), 100])) :])
    refusal = None
    try:
        found = TokenCorpus(place).sequences("train", 0, 3)
    except MonosemError as error:
        refusal = str(error)
    if refusal is None:
        np.testing.assert_array_equal(found, tokens_of("train"))
        assert place.get(key) == whole or json.loads(place.get(key)) == json.loads(whole)
    else:
        assert "\n" not in refusal
