"""Vectors at hand become a store like any other: proved, verified, trained on, and refused where a model is needed."""

import numpy as np
import pytest
import torch

import sae
from sae.errors import ConfigError, InputError, WidthError
from sae.store.verification import verify_store
from sae.training.config import DictionaryConfig, TrainingConfig
from sae.training.engine import train


@pytest.fixture
def vectors():
    return torch.randn(1000, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", ["tensor", "array", "file"])
def test_every_vector_is_read_again_whatever_it_came_in(tmp_path, vectors, kind):
    given = vectors
    if kind != "tensor":
        given = vectors.numpy()
    if kind == "file":
        np.save(tmp_path / "vectors.npy", given)
        given = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    store = sae.write_store(tmp_path / "store", {"mlp": given}, dtype="float32", vectors_per_shard=300)
    assert verify_store(store.place) == store.verify() == []
    assert store.shard_rows("mlp") == [300, 300, 300, 100]
    found = np.empty((1000, 8), np.float32)
    for shard, rows in enumerate(store.shard_rows("mlp")):
        found[np.array(store.table("mlp", shard)["sequence_id"])] = store.rows("mlp", shard, 0, rows)
    np.testing.assert_array_equal(found, vectors.numpy())


def test_a_dictionary_and_a_transcoder_are_trained_on_it_and_resume(tmp_path, vectors):
    store = sae.write_store(tmp_path / "store", {"before": vectors, "after": vectors[:, :4] * 2})
    dictionaries = [
        DictionaryConfig(name="plain", sae=sae.TopK(d_sae=16, k=2)),
        DictionaryConfig(name="across", sae=sae.TopK(d_sae=16, k=2), target_hookpoint="after"),
    ]
    config = TrainingConfig(dictionaries=dictionaries, batch_size=100)
    results = train(store, "before", config, store.place.child("dictionaries"))
    assert results == train(store, "before", config, store.place.child("dictionaries")), "finished, it is only read"
    across = sae.load_dictionary(tmp_path / "store" / "dictionaries" / "across")
    assert (across.d_in, across.d_out, across.hookpoint) == (8, 4, "before")
    assert across.origin.subject == "vectors at hand"


def test_other_vectors_are_another_store(tmp_path, vectors):
    changed = vectors.clone()
    changed[500, 3] += 1
    digests = {sae.write_store(tmp_path / str(n), {"mlp": each}).plan.digest for n, each in enumerate((vectors, vectors.numpy(), changed))}
    assert len(digests) == 2


def test_what_makes_no_store_is_refused(tmp_path, vectors):
    sae.write_store(tmp_path / "store", {"mlp": vectors})
    with pytest.raises(InputError, match="holds a store already"):
        sae.write_store(tmp_path / "store", {"mlp": vectors})
    with pytest.raises(InputError, match="no vectors were given"):
        sae.write_store(tmp_path / "none", {})
    with pytest.raises(InputError, match="no vector to write"):
        sae.write_store(tmp_path / "empty", {"mlp": vectors[:0]})
    with pytest.raises(WidthError, match=r"'mlp' have shape \[8\]"):
        sae.write_store(tmp_path / "flat", {"mlp": vectors[0]})
    with pytest.raises(WidthError, match="numbers differ: {'a': 1000, 'b': 999}"):
        sae.write_store(tmp_path / "lengths", {"a": vectors, "b": vectors[1:]})
    with pytest.raises(ConfigError, match="float16"):
        sae.write_store(tmp_path / "large", {"mlp": vectors * 1e6})
