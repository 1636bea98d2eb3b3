"""A dictionary is what was written, or it is refused in one line: with its digest as it was, and with a digest that someone computed again."""

import random
import struct

import pytest
import torch
from altered import alterations, raw_alterations, read
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save

from sae.architectures.config import BatchTopKConfig, PAnnealingConfig, ReluConfig, TiedConfig, TopKConfig
from sae.architectures.registry import build_dictionary, tensors_of
from sae.checkpoint import load_dictionary, save_dictionary
from sae.errors import ConfigError, CorruptObjectError, InputError, MonosemError
from sae.storage import Place, parse_json, sha256_hex, to_json
from sae.tensor_files import load_tensors, read_header, shapes_of

METADATA = {"name": "small", "hookpoint": "blocks.0.mlp.hook_post", "subject_digest": "a" * 64, "store_digest": "b" * 64}


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path / "small")
    save_dictionary(place, build_dictionary(TopKConfig(d_sae=16, k=4), 8), METADATA)
    return place


def changed(value, path, new):
    """A copy of `value` with another value at a path."""
    first, *rest = path
    return value | {first: changed(value[first], rest, new) if rest else new}


def test_no_field_of_the_configuration_changes_unnoticed(place):
    whole = place.get("config.json")
    for _, config in alterations(read(place, "config.json")):
        place.put_json("config.json", config)
        with pytest.raises(MonosemError) as error:
            load_dictionary(place)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 600
    for text in raw_alterations(whole):
        place.put("config.json", text.encode())
        with pytest.raises(InputError, match="config.json is not valid JSON"):
            load_dictionary(place)


@pytest.mark.parametrize(
    ("path", "new", "message"),
    [
        *(((name,), new, name) for name in ("d_in", "d_out") for new in (-5, 0, "32", 10**12, 10**30, True, 1.5, [])),
        *((("config", "d_sae"), new, "d_sae") for new in (-1, 10**13, 10**30, "16", None)),
        (("config", "d_sae"), 17, "does not fit weights.safetensors: tensor .W_dec. is float32 .16, 8., expected float32 .17, 8."),
        *((("metadata",), new, "metadata") for new in (None, [], "x", {"hook": "point"}, {"hookpoint": 5}, {"dead_fraction": 2})),
        *((("weights", name), new, name) for name, new in (("bytes", "x"), ("bytes", -1), ("sha256", 5), ("bytes", None))),
        (("architecture",), "relu", "architecture is 'relu', config.architecture 'topk'"),
        (("config", "k"), 17, "k 17 is more than d_sae 16"),
        (("config", "k"), "3", "k"),
        (("format_version",), 1, "format version 2 .found 1.. Train the dictionary again"),
        (("format_version",), True, "format version 2"),
        (("colour",), "red", "colour is unknown"),
    ],
)
def test_a_field_that_cannot_be_is_named_even_with_a_new_digest(place, path, new, message):
    place.put_sealed("config.json", changed(place.get_sealed("config.json"), path, new))
    with pytest.raises(MonosemError, match=message) as error:
        load_dictionary(place)
    assert "\n" not in str(error.value)


def put_weights(place, tensors):
    """Write other weights, and digests that fit them."""
    data = tensors if isinstance(tensors, bytes) else save(tensors)
    place.put("weights.safetensors", data)
    place.put_sealed("config.json", place.get_sealed("config.json") | {"weights": {"sha256": sha256_hex(data), "bytes": len(data)}})


@pytest.mark.parametrize("name", ["W_enc", "b_enc", "W_dec", "b_dec", "input_scale"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e20, -1e20])
def test_a_tensor_that_nothing_can_be_computed_with_is_named(place, name, value):
    tensors = load(place.get("weights.safetensors"))
    tensors[name].view(-1)[0] = value
    put_weights(place, tensors)
    with pytest.raises(CorruptObjectError, match=f"{name}.* holds values .*expected finite ones"):
        load_dictionary(place)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("b_enc"), "'b_enc' .float32 .16.. is missing"),
        (lambda tensors: tensors.update(more=torch.zeros(2)), "'more' .float32 .2.. is unknown"),
        (lambda tensors: tensors.update(b_enc=torch.zeros(17)), r"'b_enc' is float32 \[17\], expected float32 \[16\]"),
        (lambda tensors: tensors.update(b_enc=torch.zeros(16, dtype=torch.float16)), "'b_enc' is float16 .16., expected float32"),
        (lambda tensors: tensors.update(W_enc=tensors["W_enc"].T.contiguous()), r"'W_enc' is float32 \[16, 8\], expected float32 \[8, 16\]"),
    ],
)
def test_tensors_that_the_architecture_does_not_have_are_named(place, change, message):
    tensors = load(place.get("weights.safetensors"))
    change(tensors)
    put_weights(place, tensors)
    with pytest.raises(ConfigError, match=message):
        load_dictionary(place)


@pytest.mark.parametrize(
    ("config", "name", "value", "message"),
    [
        (TopKConfig(d_sae=16, k=4), "W_dec", 2.0, "row 0 of W_dec has norm 2.*'topk' has unit norms"),
        (TopKConfig(d_sae=16, k=4), "input_scale", -1.0, "input_scale is -1, expected a positive number"),
        (TopKConfig(d_sae=16, k=4), "input_scale", 0.0, "input_scale is 0"),
        (BatchTopKConfig(d_sae=16, k=4), "threshold", -0.5, "a threshold is -0.5"),
    ],
)
def test_what_the_architecture_promises_is_checked(place, config, name, value, message):
    dictionary = build_dictionary(config, 8)
    tensor = dictionary.state_dict()[name]
    tensor.copy_(tensor * value if name == "W_dec" else torch.tensor(value))
    save_dictionary(place, dictionary, METADATA)
    with pytest.raises(CorruptObjectError, match=message):
        load_dictionary(place)


def test_a_row_of_zeros_is_a_direction_that_never_grew(place):
    dictionary = build_dictionary(ReluConfig(d_sae=16), 8)
    dictionary.W_dec.data[3] = 0
    save_dictionary(place, dictionary, METADATA)
    assert not load_dictionary(place).W_dec[3].any()


@pytest.mark.parametrize(
    "config", [ReluConfig(d_sae=16), TiedConfig(d_sae=16), PAnnealingConfig(d_sae=16, queue_length=3), BatchTopKConfig(d_sae=16, k=2)]
)
def test_the_shapes_of_an_architecture_are_known_without_its_memory(config):
    assert tensors_of(config, 8) == shapes_of(build_dictionary(config, 8).state_dict())
    assert tensors_of(ReluConfig(d_sae=2**24), 10**6)["W_enc"].shape == (10**6, 2**24)


def with_header(header, rest=b"\0" * 64):
    text = header if isinstance(header, bytes) else to_json(header)
    return struct.pack("<Q", len(text)) + text + rest


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"\0" * 7, b"\xff" * 64, struct.pack("<Q", 2**62) + b"{}", struct.pack("<Q", 0)),
        *(with_header(each) for each in (b"[" * 10_000, b"NaN", b"[]", b"{}{}", b'{"a": 1}', b"\xff\xfe", {"__metadata__": {"a": 1}})),
        with_header({"a": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}),
        with_header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}),
        with_header({"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}),
        with_header({"a": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 4]}}),
        with_header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 80]}}),
        with_header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [60, 68]}}),
        with_header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}),
    ],
)
def test_a_file_of_tensors_that_is_none_is_refused(place, data):
    with pytest.raises(InputError, match="x.safetensors"):
        read_header(data, "x.safetensors") and load_tensors(data, "x.safetensors")
    put_weights(place, data or b"\0")
    with pytest.raises(MonosemError):
        load_dictionary(place)


@pytest.mark.fuzz
@given(st.integers(0, 2**32 - 1))
def test_damaged_files_of_tensors_end_in_one_line(seed):
    draw = random.Random(seed)
    data = bytearray(save({"a": torch.arange(6.0).view(2, 3), "b": torch.zeros(4, dtype=torch.int64)}, metadata={"values": "[1]"}))
    for _ in range(draw.randint(1, 4)):
        place = draw.randrange(len(data) if draw.random() < 0.3 else 200)
        data[place : place + draw.choice((0, 1, 1, 3))] = draw.randbytes(draw.choice((0, 1, 1, 2)))
    refusal = ""
    try:
        found, metadata = read_header(bytes(data), "x")
        assert set(found) == set(load_tensors(bytes(data), "x"))
        assert all(isinstance(value, str) for value in metadata.values())
    except InputError as error:
        refusal = str(error)
    assert "\n" not in refusal
    assert len(refusal) < 600


def test_the_digest_names_weights_and_origin(place):
    first = parse_json(place.get("config.json"), "config.json")["digest"]
    save_dictionary(place, build_dictionary(TopKConfig(d_sae=16, k=4), 8), METADATA | {"name": "other"})
    assert parse_json(place.get("config.json"), "config.json")["digest"] != first
