"""Every key of another library's configuration is honoured, known to have no effect, noted or refused; none is dropped in silence."""

import pytest
import torch
from foreign import (
    FEATURES,
    WIDTH,
    dictionary_learning_directory,
    drawn,
    linear_tensors,
    saelens_directory,
    saelens_tensors,
    sparsify_directory,
    version_6,
)

import sae
from sae.errors import InputError
from sae.interoperability.exchange import import_dictionary
from sae.interoperability.saelens_keys import ORIGIN, TRAINING
from sae.storage import Place

MAKERS = {"saelens": saelens_directory, "dictionary_learning": dictionary_learning_directory, "sparsify": sparsify_directory}


@pytest.fixture
def x():
    return 2 * drawn(50, WIDTH)


def imported(tmp_path, directory, **given):
    return import_dictionary(Place(directory), Place(tmp_path / "imported"), **given)


def refused(tmp_path, directory, message):
    with pytest.raises(InputError, match=message) as found:
        imported(tmp_path, directory)
    assert "\n" not in str(found.value)
    assert Place(tmp_path / "imported").list() == []


class TestUnknownKeys:
    @pytest.mark.parametrize("layout", MAKERS)
    def test_one_is_refused_with_its_value(self, tmp_path, layout):
        refused(tmp_path, MAKERS[layout](tmp_path / "theirs", {"input_power": 2}), r"the key 'input_power' \(2\) is unknown")

    def test_one_of_release_6_is_refused_where_only_older_releases_know_it(self, tmp_path):
        directory = saelens_directory(tmp_path / "theirs", version_6() | {"activation_fn": "topk", "activation_fn_kwargs": {"k": 4}})
        refused(tmp_path, directory, "the key 'activation_fn'")

    def test_a_near_one_is_named(self, tmp_path):
        refused(tmp_path, saelens_directory(tmp_path / "theirs", {"normalise_activations": "none"}), "is normalize_activations meant")

    def test_settings_of_training_have_no_effect(self, tmp_path, x):
        plain = saelens_directory(tmp_path / "plain", {"architecture": "standard"})
        full = saelens_directory(tmp_path / "full", {"architecture": "standard"} | dict.fromkeys(TRAINING - {"device"}, 3))
        forms = [import_dictionary(Place(each), Place(tmp_path / f"{each.name}-imported")) for each in (plain, full)]
        assert torch.equal(*(form.encode(x) for form in forms))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"activation_fn_str": "tanh-relu"}, "activation_fn is 'tanh-relu'"),
        ({"activation_fn": "relu", "activation_fn_str": "topk"}, "activation_fn is given twice"),
        ({"activation_fn_str": "topk"}, "k is missing"),
        ({"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4, "signed": True}}, "signed is true"),
        ({"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4, "postact_fn": "id"}}, "the key 'postact_fn'"),
        ({"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}, "k": 5}, "k is given twice, as 4 and 5"),
        ({"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}, "architecture": "gated"}, "name two rules"),
        ({"activation_fn_str": "relu", "architecture": "topk", "k": 4}, "name two rules"),
        ({"k": 4}, "'standard' does not use it"),
        ({"apply_b_dec_to_input": 0.5}, "apply_b_dec_to_input is 0.5, expected true or false"),
        ({"normalize_activations": True}, "normalize_activations is true, allowed"),
        ({"normalize_activations": "constant_norm_rescale"}, "have no counterpart here"),
        ({"reshape_activations": "flatten"}, "reshape_activations is 'flatten'"),
        ({"hook_head_index": 3}, "of one attention head"),
        ({"hook_point_head_index": 0}, "of one attention head"),
        ({"model_from_pretrained_kwargs": {"center_writing_weights": True}}, "center_writing_weights is true.*processed weights"),
        ({"model_from_pretrained_kwargs": {"fold_ln": True}}, "fold_ln is true"),
        ({"model_from_pretrained_kwargs": {"rotary": 4}}, "the key 'rotary'"),
        ({"model_kwargs": {"prepend_bos": False}}, "model_kwargs is"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
        ({"d_sae": 31}, "d_sae is 31, but the weights have 32"),
        ({"d_out": 4}, "d_out is 4, but the weights have 8"),
        ({"sae_lens_version": "abc"}, "sae_lens_version is 'abc'"),
        (version_6(hook_head_index=3), "of one attention head"),
        (version_6(model_from_pretrained_kwargs={"center_writing_weights": True}), "processed weights"),
        (version_6() | {"architecture": "skip_transcoder"}, "'skip_transcoder' has no counterpart"),
        (version_6() | {"architecture": ["standard"]}, "has no counterpart"),
        (version_6() | {"architecture": "batchtopk", "topk_threshold_lr": 0.01}, "Save a training checkpoint with `save_inference_model` first"),
        (version_6() | {"architecture": "transcoder", "apply_b_dec_to_input": True}, "a transcoder's b_dec is of its output"),
        (version_6() | {"rescale_acts_by_decoder_norm": True}, "'standard' does not use it"),
    ],
)
def test_what_saelens_computes_otherwise_is_refused(tmp_path, config, message):
    refused(tmp_path, saelens_directory(tmp_path / "theirs", config), message)


@pytest.mark.parametrize(
    "config",
    [
        {"activation_fn_str": "relu", "activation_fn_kwargs": {}, "hook_head_index": None, "model_from_pretrained_kwargs": {}},
        {"normalize_activations": False, "finetuning_scaling_factor": False, "model_from_pretrained_kwargs": {"center_writing_weights": False}},
        {"normalize_activations": "none", "reshape_activations": "hook_z", "device": "cuda", "prepend_bos": True, "seqpos_slice": [None]},
        version_6(hook_head_index=None, model_from_pretrained_kwargs={}, anything="else"),
    ],
)
def test_values_without_effect_are_accepted(tmp_path, x, config):
    tensors = saelens_tensors()
    form = imported(tmp_path, saelens_directory(tmp_path / "theirs", config, tensors))
    z = (x - tensors["b_dec"]) @ tensors["W_enc"] + tensors["b_enc"]
    torch.testing.assert_close(form.encode(x), torch.relu(z))


@pytest.mark.parametrize(
    "config",
    [
        {"architecture": "standard", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}},
        {"activation_fn": "topk", "activation_fn_kwargs": {"k": 4, "signed": False}},
        {"architecture": "topk", "activation_fn_kwargs": {"k": 4}},
        {"architecture": "topk", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}, "k": 4},
    ],
)
def test_top_k_of_older_saelens_is_top_k(tmp_path, x, config):
    form = imported(tmp_path, saelens_directory(tmp_path / "theirs", config))
    assert (form.rule, form.k) == ("topk", 4)
    with torch.no_grad():
        assert (sae.load_dictionary(tmp_path / "imported").encode(x) > 0).sum(dim=1).eq(4).all()


class TestScalingFactors:
    def test_ones_are_without_effect(self, tmp_path, x):
        tensors = saelens_tensors() | {"scaling_factor": torch.ones(FEATURES)}
        form = imported(tmp_path, saelens_directory(tmp_path / "theirs", {"finetuning_scaling_factor": False}, tensors))
        assert torch.equal(form.W_dec, tensors["W_dec"])

    @pytest.mark.parametrize("name", ["scaling_factor", "finetuning_scaling_factor"])
    def test_others_are_folded_into_the_decoder(self, tmp_path, x, name):
        tensors = saelens_tensors() | {name: drawn(FEATURES).abs()}
        form = imported(tmp_path, saelens_directory(tmp_path / "theirs", {"finetuning_scaling_factor": True}, tensors))
        features = form.encode(x)
        torch.testing.assert_close(features, torch.relu((x - tensors["b_dec"]) @ tensors["W_enc"] + tensors["b_enc"]))
        torch.testing.assert_close(form.decode(features), (features * tensors[name]) @ tensors["W_dec"] + tensors["b_dec"])

    def test_others_that_are_said_to_be_unused_are_refused(self, tmp_path):
        tensors = saelens_tensors() | {"scaling_factor": drawn(FEATURES)}
        directory = saelens_directory(tmp_path / "theirs", {"finetuning_scaling_factor": False}, tensors)
        refused(tmp_path, directory, "finetuning_scaling_factor is false")


def test_weights_are_rounded_to_the_precision_that_saelens_computes_in(tmp_path):
    tensors = saelens_tensors()
    form = imported(tmp_path, saelens_directory(tmp_path / "theirs", {"dtype": "torch.bfloat16"}, tensors))
    assert torch.equal(form.W_enc, tensors["W_enc"].bfloat16().float())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"signed": True}, "signed is true"),
        ({"num_latents": 31}, "num_latents is 31, but the weights have 32"),
        ({"skip_connection": True}, "linear path"),
    ],
)
def test_what_sparsify_computes_otherwise_is_refused(tmp_path, config, message):
    refused(tmp_path, sparsify_directory(tmp_path / "theirs", config), message)


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ({"norm_factor": 3.5}, "norm_factor is 3.5"),
        ({"dict_size": 31}, "dict_size is 31, but the weights have 32"),
        ({"dict_class": ["AutoEncoder"]}, "has no counterpart"),
        ({"dict_class": "AutoEncoderNew"}, "lacks decoder.bias and also has bias"),
    ],
)
def test_what_dictionary_learning_computes_otherwise_is_refused(tmp_path, trainer, message):
    refused(tmp_path, dictionary_learning_directory(tmp_path / "theirs", trainer), message)


def test_an_autoencoder_has_the_features_of_directions_of_unit_norm(tmp_path, x):
    tensors = linear_tensors()
    form = imported(tmp_path, dictionary_learning_directory(tmp_path / "theirs", tensors=tensors))
    raw = torch.relu((x - tensors["bias"]) @ tensors["encoder.weight"].T + tensors["encoder.bias"])
    torch.testing.assert_close(form.encode(x), raw * tensors["decoder.weight"].norm(dim=0))
    torch.testing.assert_close(form.decode(form.encode(x)), raw @ tensors["decoder.weight"].T + tensors["bias"])


def test_no_key_is_on_two_lists():
    assert not ORIGIN & TRAINING
