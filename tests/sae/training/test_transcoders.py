"""A dictionary that encodes one hookpoint and reconstructs another of the same tokens."""

import math

import numpy as np
import pytest
import torch
from stores import planted_activations, planted_directions

from sae.checkpoint import load_dictionary
from sae.errors import HookpointError
from sae.storage import Place
from sae.store.manifest import StorePlan, finish_store, start_store
from sae.store.reader import Store
from sae.store.writer import write_shard
from sae.training.config import TrainingConfig
from sae.training.engine import train

SOURCE, TARGET = "blocks.0.hook_resid_mid", "blocks.0.hook_mlp_out"
ENTRY = {
    "name": "across",
    "sae": {"architecture": "topk", "d_sae": 48, "k": 4, "aux_k": 8},
    "optimizer": {"learning_rate": 5e-3},
    "target_hookpoint": TARGET,
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Sources of width 16; targets of width 6, a fixed map of the features that made the source."""
    place = Place(tmp_path_factory.mktemp("store"))
    source = planted_activations(16_384, planted_directions(24, 16))
    target = torch.relu(source @ torch.randn(16, 6, generator=torch.Generator().manual_seed(5)))
    plan = StorePlan(
        subject="planted", subject_digest="0", corpus_digest="0", context_length=64, hookpoints={SOURCE: 16, TARGET: 6}, dtype="float32",
        num_sequences=256, sequences_per_shard=32, special_token_ids=[],
    )  # fmt: skip
    start_store(place, plan)
    for shard in range(plan.num_shards):
        first, last = plan.shard_range(shard)
        both = {name: vectors.reshape(256, 64, -1)[first:last] for name, vectors in ((SOURCE, source), (TARGET, target))}
        write_shard(place, plan, shard, np.ones((last - first, 64), dtype=np.uint32), both)
    finish_store(place, plan)
    return Store(place)


def config(*entries):
    return TrainingConfig.parse({"dictionaries": list(entries), "batch_size": 128, "log_every": 16, "dead_window_vectors": 2048})


def test_it_learns_the_target_from_the_source_of_the_same_token(store, tmp_path):
    """Had rows been paired wrongly, nothing beyond the mean could be explained."""
    result = train(store, SOURCE, config(ENTRY), Place(tmp_path))["across"]
    assert result["final"]["fvu"] < 0.3
    assert (result["hookpoint"], result["target_hookpoint"]) == (SOURCE, TARGET)
    dictionary = load_dictionary(tmp_path / "across")
    assert (dictionary.d_in, dictionary.d_out) == (16, 6)
    targets = torch.cat([torch.from_numpy(store.rows(TARGET, shard, 0, 2048).copy()) for shard in range(8)])
    assert (targets * dictionary.output_scale).norm(dim=1).mean().item() == pytest.approx(math.sqrt(6), rel=1e-5)


def test_it_is_the_same_beside_a_dictionary_of_the_source_alone(store, tmp_path):
    plain = {key: value for key, value in ENTRY.items() if key != "target_hookpoint"} | {"name": "plain"}
    train(store, SOURCE, config(ENTRY), Place(tmp_path / "alone"))
    train(store, SOURCE, config(plain, ENTRY), Place(tmp_path / "beside"))
    weights = [Place(tmp_path / where).get("across/weights.safetensors") for where in ("alone", "beside")]
    assert weights[0] == weights[1]


def test_a_target_that_the_store_lacks_is_refused(store, tmp_path):
    with pytest.raises(HookpointError, match=r"'across' is to reconstruct 'blocks.9.hook_mlp_out', which .* has not .*harvest\.hookpoints"):
        train(store, SOURCE, config({**ENTRY, "target_hookpoint": "blocks.9.hook_mlp_out"}), Place(tmp_path))


def test_dead_features_of_a_transcoder_are_resampled_in_both_spaces(store, tmp_path):
    relu = {
        "name": "relu", "sae": {"architecture": "relu", "d_sae": 48, "l1_coefficient": 0.5}, "target_hookpoint": TARGET,
        "optimizer": {"learning_rate": 2e-2}, "resampling": {"num_inputs": 512},
    }  # fmt: skip
    train(store, SOURCE, config(relu), Place(tmp_path))
    events = Place(tmp_path).get("relu/events.jsonl").decode()
    assert '"resampled": 0' not in events.splitlines()[-1]
    assert load_dictionary(tmp_path / "relu").W_dec.shape == (48, 6)
