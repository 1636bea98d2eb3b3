"""An import keeps hookpoint, model and context length from every layout, says where they come from, and asks for what is not certain."""

import json

import pytest
import torch
from exchanged import planted
from foreign import WIDTH, dictionary_learning_directory, drawn, saelens_directory, saelens_tensors, sparsify_directory, version_6

from jobs.cli import main
from sae.checkpoint import save_dictionary
from sae.errors import InputError
from sae.interoperability.exchange import LAYOUTS, export_dictionary, import_dictionary
from sae.interoperability.hookpoint_names import in_transformer_lens
from sae.storage import Place

POINT = "blocks.3.hook_resid_post"


def metadata_of(tmp_path, directory, **given):
    import_dictionary(Place(directory), Place(tmp_path / "imported"), **given)
    return json.loads((tmp_path / "imported" / "config.json").read_text())["metadata"]


@pytest.mark.parametrize(
    "config",
    [
        {"hook_name": POINT, "model_name": "gpt2", "context_size": 128},
        {"hook_point": POINT, "hook_point_layer": 3, "model_name": "gpt2", "context_size": 128},
        {"hook_point": "blocks.{layer}.hook_resid_post", "hook_point_layer": 3, "model_name": "gpt2", "context_size": 128},
        version_6(hook_name=POINT, model_name="gpt2", context_size=128),
        version_6(hook_name="transformer.h.3", model_class_name="AutoModelForCausalLM", model_name="gpt2", context_size=128),
    ],
)
def test_saelens_says_it_in_several_places(tmp_path, config):
    found = metadata_of(tmp_path, saelens_directory(tmp_path / "theirs", config))
    assert (found["hookpoint"], found["subject"], found["context_length"]) == (POINT, "gpt2", 128)


def test_a_transcoder_of_saelens_has_a_target(tmp_path):
    config = version_6(hook_name="blocks.3.ln2.hook_normalized", hook_name_out="blocks.3.hook_mlp_out") | {"architecture": "transcoder", "d_out": 12}
    found = metadata_of(tmp_path, saelens_directory(tmp_path / "theirs", config, saelens_tensors(d_out=12)))
    assert (found["hookpoint"], found["target_hookpoint"]) == ("blocks.3.ln2.hook_normalized", "blocks.3.hook_mlp_out")


@pytest.mark.parametrize(("folder", "hookpoint"), [("layers.3", POINT), ("layers.3.mlp", "blocks.3.hook_mlp_out"), ("h.3", POINT)])
def test_sparsify_names_the_activation_by_the_folder_and_the_model_above_it(tmp_path, folder, hookpoint):
    directory = sparsify_directory(tmp_path / "run" / folder)
    (tmp_path / "run" / "config.json").write_text(json.dumps({"sae": {}, "model": "HuggingFaceTB/SmolLM2-135M", "ctx_len": 2048}))
    found = metadata_of(tmp_path, directory)
    assert (found["hookpoint"], found["subject"], found["context_length"]) == (hookpoint, "HuggingFaceTB/SmolLM2-135M", 2048)


def test_dictionary_learning_names_are_translated(tmp_path):
    trainer = {"submodule_name": "resid_post_layer_3", "layer": 3, "lm_name": "EleutherAI/pythia-70m"}
    found = metadata_of(tmp_path, dictionary_learning_directory(tmp_path / "theirs", trainer))
    assert (found["hookpoint"], found["subject"], found["context_length"]) == (POINT, "EleutherAI/pythia-70m", 128)


@pytest.mark.parametrize(
    ("name", "layer", "model", "expected"),
    [
        ("blocks.0.mlp.hook_post", None, None, "blocks.0.mlp.hook_post"),
        ("resid_post_layer_3", None, None, POINT),
        ("resid_pre", 3, None, "blocks.3.hook_resid_pre"),
        ("resid_post_layer_3", 4, None, None),
        ("mlp_out", 3, "EleutherAI/pythia-70m", "blocks.3.hook_mlp_out"),
        ("mlp_out", None, "EleutherAI/pythia-70m", None),
        ("mlp_out_layer_3", 3, "google/gemma-2-2b", None),
        ("mlp_out_layer_3", 3, None, None),
        ("gpt_neox.layers.3.attention", None, "EleutherAI/pythia-70m", "blocks.3.hook_attn_out"),
        ("model.layers.3.mlp.down_proj", None, "meta-llama/Llama-3.2-1B", None),
        ("my layer", None, "gpt2", None),
    ],
)
def test_a_name_is_translated_only_where_it_can_mean_one_thing(name, layer, model, expected):
    assert in_transformer_lens(name, layer, model) == expected


class TestCommandLine:
    def test_says_what_was_taken_from_where(self, tmp_path, capsys):
        config = {"hook_name": POINT, "model_name": "gpt2", "dataset_path": "a/text", "architecture": "topk", "activation_fn_kwargs": {"k": 4}}
        assert main(["import", str(saelens_directory(tmp_path / "theirs", config)), str(tmp_path / "out")]) == 0
        said = capsys.readouterr().out
        assert "features (topk), k 4" in said
        assert f"from its files: hookpoint {POINT} (hook_name); model gpt2 (model_name)" in said
        assert "dataset_path 'a/text'" in said

    def test_asks_for_what_is_not_certain(self, tmp_path, capsys):
        directory = dictionary_learning_directory(tmp_path / "theirs", {"submodule_name": "mlp_out"})
        assert main(["import", str(directory), str(tmp_path / "out")]) == 0
        said = capsys.readouterr().out
        assert "unknown: hookpoint 'mlp_out' (submodule_name" in said
        assert "add --hookpoint; model is not given: add --model" in said

    def test_what_is_given_counts_more_than_the_files(self, tmp_path, capsys):
        directory = saelens_directory(tmp_path / "theirs", {"hook_name": "blocks.1.hook_mlp_out"})
        assert main(["import", str(directory), str(tmp_path / "out"), "--hookpoint", POINT, "--model", "me/mine"]) == 0
        metadata = json.loads((tmp_path / "out" / "config.json").read_text())["metadata"]
        assert (metadata["hookpoint"], metadata["subject"]) == (POINT, "me/mine")
        assert f"hookpoint {POINT} (given, instead of 'blocks.1.hook_mlp_out' from hook_name)" in capsys.readouterr().out

    def test_only_a_transcoder_has_a_target(self, tmp_path, capsys):
        directory = saelens_directory(tmp_path / "theirs")
        assert main(["import", str(directory), str(tmp_path / "out"), "--target-hookpoint", POINT]) == 2
        assert "is no transcoder" in capsys.readouterr().err


class TestWhereNoDictionaryIs:
    def test_a_name_of_the_hub_must_be_downloaded_first(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(InputError, match=r"hf download EleutherAI/sae-llama --local-dir DIR"):
            import_dictionary(Place("EleutherAI/sae-llama"), Place(tmp_path / "out"))

    def test_the_folders_that_hold_one_are_named(self, tmp_path):
        for layer in range(7):
            sparsify_directory(tmp_path / "run" / f"layers.{layer}")
        with pytest.raises(InputError, match=r"layers\.0, layers\.1, layers\.2, layers\.3, layers\.4 and 2 more.*e\.g\. .*/run/layers\.0"):
            import_dictionary(Place(tmp_path / "run"), Place(tmp_path / "out"))


class TestExport:
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_no_path_of_this_machine_is_in_it(self, tmp_path, layout):
        model = tmp_path / "secret-folder" / "m1"
        model.mkdir(parents=True)
        place = Place(tmp_path / "secret-folder" / "run" / "dictionaries" / "small")
        save_dictionary(place, planted("topk"), {"hookpoint": POINT, "subject": str(model), "subject_digest": "17518c8c" * 8})
        export_dictionary(place, layout, Place(tmp_path / "out"))
        content = b"".join(Place(tmp_path / "out").get(key) for key in Place(tmp_path / "out").list())
        assert b"secret-folder" not in content
        assert b"m1@17518c8c1751" in content or layout == "sparsify"

    def test_a_transcoder_says_what_it_reconstructs(self, tmp_path):
        save_dictionary(Place(tmp_path / "ours"), planted("relu", 24), {"hookpoint": POINT, "target_hookpoint": "blocks.3.hook_mlp_out"})
        export_dictionary(Place(tmp_path / "ours"), "saelens", Place(tmp_path / "out"))
        assert json.loads((tmp_path / "out" / "cfg.json").read_text())["metadata"]["hook_name_out"] == "blocks.3.hook_mlp_out"


def test_relu_is_exported_to_the_class_that_nobody_rescales(tmp_path):
    dictionary = planted("relu")
    save_dictionary(Place(tmp_path / "ours"), dictionary, {})
    export_dictionary(Place(tmp_path / "ours"), "dictionary_learning", Place(tmp_path / "out"))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["trainer"]["dict_class"] == "AutoEncoderNew"
    tensors, x = torch.load(tmp_path / "out" / "ae.pt", weights_only=True), 3 * drawn(20, dictionary.d_in)
    with torch.no_grad():
        torch.testing.assert_close(torch.relu(x @ tensors["encoder.weight"].T + tensors["encoder.bias"]), dictionary.encode(x), rtol=1e-5, atol=1e-5)
    assert dictionary.d_in != WIDTH
