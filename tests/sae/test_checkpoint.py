"""Dictionaries and training states on disk."""

import json
import logging

import pytest
import torch

from sae.architectures.config import ReluConfig, TopKConfig
from sae.architectures.registry import build_dictionary
from sae.checkpoint import TrainingState, delete_states, load_dictionary, put_json_lines, restore_state, save_dictionary, save_state
from sae.errors import ConfigError, CorruptObjectError, InputError
from sae.storage import Place


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path / "place")


def some_dictionary(config):
    dictionary = build_dictionary(config, 8)
    dictionary.input_scale.fill_(1.5)
    dictionary.initialize(torch.linspace(-1, 1, 8), torch.Generator().manual_seed(0))
    return dictionary


def test_a_transcoder_comes_back_with_both_widths(place):
    transcoder = build_dictionary(ReluConfig(d_sae=16), 8, 12)
    save_dictionary(place, transcoder, {})
    loaded = load_dictionary(place)
    assert (loaded.is_transcoder, loaded.d_in, loaded.d_out) == (True, 8, 12)
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in transcoder.state_dict().items())


@pytest.mark.parametrize("config", [ReluConfig(d_sae=16), TopKConfig(d_sae=16, k=3)])
def test_a_dictionary_comes_back_with_the_same_bits(place, config):
    dictionary = some_dictionary(config)
    save_dictionary(place, dictionary, {"hookpoint": "blocks.0.mlp.hook_post"})
    loaded = load_dictionary(place.url)
    assert loaded.config == config
    assert loaded.d_in == 8
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in dictionary.state_dict().items())
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(dictionary.eval()(x), loaded(x))


def test_config_json_says_what_the_dictionary_is(place):
    save_dictionary(place, some_dictionary(TopKConfig(d_sae=16, k=3)), {"subject": "gpt2"})
    config = place.get_json("config.json")
    assert (config["architecture"], config["d_in"], config["config"]["k"], config["metadata"]) == ("topk", 8, 3, {"subject": "gpt2"})


def test_weights_cut_short_are_not_taken_for_a_dictionary(place):
    save_dictionary(place, some_dictionary(ReluConfig(d_sae=16)), {})
    place.put("weights.safetensors", place.get("weights.safetensors")[:-100])
    with pytest.raises(CorruptObjectError, match="weights.safetensors has .* bytes"):
        load_dictionary(place.url)


def test_weights_of_another_dictionary_are_not_taken_for_this_one(place):
    save_dictionary(place, some_dictionary(ReluConfig(d_sae=16)), {})
    weights = bytearray(place.get("weights.safetensors"))
    weights[-1] ^= 1
    place.put("weights.safetensors", bytes(weights))
    with pytest.raises(CorruptObjectError):
        load_dictionary(place.url)


def test_missing_weights_are_reported_as_damage(place):
    save_dictionary(place, some_dictionary(ReluConfig(d_sae=16)), {})
    place.delete("weights.safetensors")
    with pytest.raises(CorruptObjectError, match="is missing"):
        load_dictionary(place.url)


def test_weights_without_a_config_are_no_dictionary(place):
    save_dictionary(place, some_dictionary(ReluConfig(d_sae=16)), {})
    place.delete("config.json")
    with pytest.raises(InputError, match="does not exist"):
        load_dictionary(place.url)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": {"architecture": "unheard-of", "d_sae": 16}}, "unheard-of"),
        ({"config": {"architecture": "relu", "d_sae": 16, "colour": "red"}}, "colour"),
        ({"config": {"architecture": "relu", "d_sae": 17}}, "does not fit"),
        ({"format_version": 99}, "format version"),
        ({"weights": None}, "weights: .* found None"),
    ],
)
def test_an_unknown_config_is_a_config_error(place, change, message):
    save_dictionary(place, some_dictionary(ReluConfig(d_sae=16)), {})
    place.put_sealed("config.json", place.get_sealed("config.json") | change)
    with pytest.raises(ConfigError, match=message):
        load_dictionary(place.url)


def state(step, value=0.1):
    return TrainingState(step, {"weights": torch.full((4,), value), "count": torch.tensor([step])}, {"rows": [{"step": step, "loss": value}]})


def test_the_newest_state_comes_back_exactly(place):
    assert restore_state(place) is None
    for step in (5, 10, 15):
        save_state(place, state(step, value=1 / step))
    restored = restore_state(place)
    assert restored.step == 15
    assert torch.equal(restored.tensors["weights"], torch.full((4,), 1 / 15))
    assert restored.values == {"rows": [{"step": 15, "loss": 1 / 15}]}


def test_two_states_are_kept(place):
    for step in (5, 10, 15):
        save_state(place, state(step))
    assert [key.split("-")[1] for key in place.list()] == ["0000000010", "0000000015"]


@pytest.mark.parametrize("damage", [lambda data: data[:-3], lambda data: b"", lambda data: data[:-1] + b"\xff"])
def test_after_damage_the_state_before_is_used_and_the_log_says_so(place, damage, caplog):
    save_state(place, state(5))
    save_state(place, state(10))
    newest = place.list()[-1]
    place.put(newest, damage(place.get(newest)))
    with caplog.at_level(logging.WARNING):
        assert restore_state(place).step == 5
    assert newest in caplog.text
    save_state(place, state(10))
    assert restore_state(place).step == 10


def test_states_can_be_removed(place):
    save_state(place, state(5))
    delete_states(place)
    assert place.list() == []


FOREIGN = [
    "notes.txt",
    "step-abc-123.safetensors",
    "step-0000000009-0123456789abcdef.safetensors.bak",
    "old/step-0000000009-0123456789abcdef.safetensors",
]


def test_files_that_are_no_training_states_are_neither_read_nor_deleted(place, caplog):
    for key in FOREIGN:
        place.put(key, b"mine")
    assert restore_state(place) is None
    for step in (5, 10, 15):
        save_state(place, state(step))
    assert restore_state(place).step == 15
    assert restore_state(place, 10).step == 10
    delete_states(place)
    assert place.list() == sorted(FOREIGN)
    assert not caplog.text


def test_logs_are_json_lines(place):
    rows = [{"step": 1, "text": "a\nb  c"}, {"step": 2, "fvu": 0.25}]
    put_json_lines(place, "training.jsonl", rows)
    assert [json.loads(line) for line in place.get("training.jsonl").decode().splitlines()] == rows
