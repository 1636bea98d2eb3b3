"""A model that cannot be used is refused in one line, before any weight is read; nothing is installed, unpickled or drawn at random."""

import json
import math
import os
import shutil
import subprocess
import time

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma3Config, Gemma3ForConditionalGeneration, OlmoConfig, OPTConfig

from sae.errors import HookpointError, InputError, MonosemError
from sae.subject.check import check_subject
from sae.subject.directory import check_hub_files
from sae.subject.model import Subject, SubjectConfig

WEIGHTS = "model.safetensors"


def config_of(directory):
    return SubjectConfig(model=str(directory))


@pytest.fixture
def model(tmp_path, tiny_subject_directory):
    """A copy of the tiny model, to be damaged."""
    return shutil.copytree(tiny_subject_directory, tmp_path / "model")


def change_weights(model, change):
    tensors = load_file(model / WEIGHTS)
    change(tensors)
    save_file(tensors, model / WEIGHTS, {"format": "pt"})


def change_config(model, **values):
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def save_as_tiny(model, language_model, tokenizer_from):
    language_model.save_pretrained(model)
    for path in tokenizer_from.glob("token*"):
        shutil.copy(path, model)


def test_a_description_is_that_of_the_loaded_model(tiny_subject_directory):
    found, subject = check_subject(config_of(tiny_subject_directory)), Subject.load(config_of(tiny_subject_directory))
    assert list(found.hookpoints) == subject.hookpoints()
    assert (found.layers, found.d_model, found.context_length, found.d_vocab) == (1, 16, subject.context_length, subject.d_vocab)


def test_hookpoint_and_context_are_checked_without_weights(tiny_subject_directory):
    config = config_of(tiny_subject_directory)
    check_subject(config, ["blocks.0.mlp.hook_post", "blocks.0.hook_resid_pre"], 32)
    with pytest.raises(HookpointError, match="its blocks are 0 to 0"):
        check_subject(config, ["blocks.1.mlp.hook_post"])
    with pytest.raises(HookpointError, match=r"near ones: .*blocks\.0\.mlp\.hook_post"):
        check_subject(config, ["blocks.0.mlp.hook_pos"])
    with pytest.raises(InputError, match="takes at most 32 tokens"):
        check_subject(config, context_length=33)


def cut(model):
    (model / WEIGHTS).write_bytes((model / WEIGHTS).read_bytes()[:-1])


def lengthen(model):
    (model / WEIGHTS).write_bytes((model / WEIGHTS).read_bytes() + b"\0" * 8)


def point(model, name=WEIGHTS):
    (model / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


def pickle_weights(model):
    tensors = load_file(model / WEIGHTS)
    (model / WEIGHTS).unlink()
    torch.save(tensors, model / "pytorch_model.bin")


def only_gguf(model):
    for path in model.iterdir():
        path.unlink()
    (model / "model.gguf").write_bytes(b"GGUF")


def no_tokenizer(model):
    for path in model.glob("token*"):
        path.unlink()


def more_tokens(model):
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens(["one_more", "two_more", "three_more"])
    tokenizer.save_pretrained(model)


def one_token(model):
    content = json.loads((model / "tokenizer.json").read_text())
    content["model"] |= {"vocab": {"<|endoftext|>": 0}, "merges": []}
    (model / "tokenizer.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "is damaged or not a safetensors file"),
        (lengthen, "is damaged or not a safetensors file"),
        (point, "Git LFS pointer.*git lfs pull"),
        (lambda model: point(model, "config.json"), r"config\.json' is a Git LFS pointer"),
        (lambda model: point(model, "tokenizer.json"), r"tokenizer\.json' is a Git LFS pointer"),
        (pickle_weights, r"pytorch_model\.bin', and only safetensors files are read"),
        (only_gguf, "GGUF model, which is not read. Convert it"),
        (lambda model: (model / WEIGHTS).unlink(), r"has no model\.safetensors"),
        (lambda model: (model / "config.json").unlink(), r"has no config\.json"),
        (lambda model: (model / "config.json").write_text("{" * 100_000), r"config\.json is not valid JSON|config\.json' is not valid"),
        (lambda model: (model / "config.json").write_text("[]"), "holds a list"),
        (lambda model: change_config(model, n_layer=10**9), "'n_layer' in .* is 1000000000, expected at most 1,024"),
        (lambda model: change_config(model, n_embd=10**12), "'n_embd' in .* is 1000000000000"),
        (lambda model: change_config(model, vocab_size=2**24), "'vocab_size' in .* expected at most"),
        (lambda model: change_config(model, n_layer=2), r"lack \d+ tensors: transformer\.h\.1\..* and \d+ more"),
        (lambda model: change_config(model, n_layer=0), r"hold \d+ tensors: .*h\.0\..* that config\.json has no place for"),
        (lambda model: change_config(model, n_inner=7), r"has the shape .*config\.json asks for"),
        (lambda model: change_config(model, model_type="nonsense", architectures=["Nonsense"]), "nonsense"),
        (lambda model: change_weights(model, lambda tensors: tensors.pop("transformer.h.0.mlp.c_fc.weight")), r"lack 1 tensors: .*c_fc\.weight"),
        (lambda model: change_weights(model, lambda tensors: tensors.update({"score.weight": torch.zeros(2, 16)})), r"hold 1 tensors: score\.weight"),
        (lambda model: change_config(model, activation_function="nonsense"), "nothing is known by the name 'nonsense'"),
        (lambda model: change_config(model, layer_norm_epsilon="x"), "layer_norm_epsilon.*Check config.json"),
        (no_tokenizer, r"has no tokenizer\.json"),
        (lambda model: (model / "tokenizer.json").write_bytes(b"\xff{"), "cannot load a tokenizer"),
        (lambda model: (model / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "BPE"}}'), "cannot load a tokenizer|no token but"),
        (more_tokens, "token ids up to 302, its embedding has 300 rows"),
        (one_token, "has no token but 1 special ones"),
    ],
)
def test_a_damaged_model_is_refused_in_one_line_by_check_and_by_load(model, damage, message):
    damage(model)
    for read in (check_subject, Subject.load):
        with pytest.raises(InputError, match=message) as error:
            read(config_of(model))
        assert "\n" not in str(error.value)
        assert "weights_only" not in str(error.value)


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "model.safetensors.index.json"]
)
def test_a_file_of_any_size_is_bounded_before_it_is_read(model, name):
    with (model / name).open("ab") as file:
        file.truncate(2**24 + 1 if name == "config.json" else 2**28 + 1)  # sparse
    with pytest.raises(InputError, match=rf"{name}' has [0-9,]+ bytes, expected at most"):
        check_subject(config_of(model))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda model: os.truncate(model / "config.json", 2**24 + 1), "has 16,777,217 bytes"),
        (lambda model: os.truncate(model / "tokenizer.json", 2**28 + 1), "has 268,435,457 bytes"),
        (lambda model: (model / "config.json").write_text("[" * 100_000), "is not valid JSON"),
        (lambda model: change_config(model, n_layer=10**9), "'n_layer' in .* is 1000000000, expected at most 1,024"),
    ],
)
def test_files_of_the_hub_are_bounded_like_local_ones(model, monkeypatch, damage, message):
    def cached_file(name, key, **_):
        assert name == "someone/model"
        return str(model / key) if (model / key).is_file() else None

    damage(model)
    monkeypatch.setattr("transformers.utils.cached_file", cached_file)
    check_hub_files.cache_clear()
    with pytest.raises(InputError, match=message):
        check_subject(SubjectConfig(model="someone/model"))


def test_a_configuration_of_another_model_allocates_nothing(model):
    """Llama's default sizes: 7 billion weights, of which the files hold none."""
    content = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(
        json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": content["vocab_size"]})
    )
    begun = time.perf_counter()
    with pytest.raises(InputError, match="has the shape|lack .* tensors"):
        Subject.load(config_of(model))
    assert time.perf_counter() - begun < 10


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_refused(model, value):
    change_weights(model, lambda tensors: tensors["transformer.ln_f.weight"].fill_(value))
    with pytest.raises(InputError, match=r"cannot be used: tensor 'transformer\.ln_f\.weight'"):
        Subject.load(config_of(model))


def test_a_gguf_file_is_told_how_to_be_converted(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match="gguf_file="):
        check_subject(config_of(tmp_path / "a.gguf"))


def test_loading_a_model_of_images_and_text_starts_no_process(tmp_path, tiny_subject_directory, monkeypatch):
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**sizes, "num_key_value_heads": 1, "head_dim": 8, "vocab_size": 300, "max_position_embeddings": 32}
    config = Gemma3Config(text_config=text, vision_config={**sizes, "image_size": 8, "patch_size": 4}, mm_tokens_per_image=4)
    save_as_tiny(tmp_path, Gemma3ForConditionalGeneration(config), tiny_subject_directory)
    assert check_subject(config_of(tmp_path), ["blocks.0.hook_resid_post"], 32).layers == 1
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda *arguments, **_: started.append(arguments))
    subject = Subject.load(config_of(tmp_path))
    assert subject.width("blocks.0.hook_resid_post") == 16
    assert not started


def test_logit_effects_of_a_norm_without_gain_are_those_of_a_gain_of_one(tmp_path, tiny_subject_directory):
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 300}
    config = OlmoConfig(**sizes, max_position_embeddings=32, pad_token_id=0)
    torch.manual_seed(0)
    plain = AutoModelForCausalLM.from_config(config)
    save_as_tiny(tmp_path, plain, tiny_subject_directory)
    directions = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    found = Subject.load(config_of(tmp_path)).logit_effects("blocks.0.hook_resid_post", directions)
    expected = (directions - directions.mean(-1, keepdim=True)) @ plain.lm_head.weight.T
    torch.testing.assert_close(found, (expected - expected.median(-1, keepdim=True).values).detach())


def test_a_model_without_final_norm_whose_unembedding_reads_another_space_has_no_logit_effects(tmp_path, tiny_subject_directory):
    sizes = {"hidden_size": 16, "ffn_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 300, "max_position_embeddings": 32}
    config = OPTConfig(**sizes, word_embed_proj_dim=8, do_layer_norm_before=False)
    save_as_tiny(tmp_path, AutoModelForCausalLM.from_config(config), tiny_subject_directory)
    with pytest.raises(HookpointError, match="does not read the residual stream"):
        Subject.load(config_of(tmp_path)).logit_effects("blocks.0.hook_resid_post", torch.zeros(1, 16))


VALUES = st.one_of(st.none(), st.booleans(), st.integers(-(10**20), 10**20), st.floats(), st.text(max_size=5), st.lists(st.integers(), max_size=2))


@pytest.mark.fuzz
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_changed_model_directory_is_used_or_refused(tiny_subject_directory, tmp_path, data):
    model = tmp_path / "model"
    shutil.rmtree(model, ignore_errors=True)
    shutil.copytree(tiny_subject_directory, model)
    name = data.draw(st.sampled_from(["config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json"]))
    if name.endswith("g.json"):
        content = json.loads((model / name).read_text())
        content[data.draw(st.sampled_from(sorted(content)))] = data.draw(VALUES)
        (model / name).write_text(json.dumps(content))
    else:
        content = bytearray((model / name).read_bytes())
        content[data.draw(st.integers(0, min(len(content), 3000) - 1))] = data.draw(st.integers(0, 255))
        (model / name).write_bytes(content)
    problem = ""
    try:
        Subject.load(config_of(model))
        check_subject(config_of(model))
    except MonosemError as error:
        problem = str(error)
    assert "\n" not in problem
