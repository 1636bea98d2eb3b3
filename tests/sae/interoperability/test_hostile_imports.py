"""What others wrote is read as hostile: tensors only, sizes from the tensors, one sentence on what is wrong, nothing written."""

import io
import json
import pickle

import pytest
import torch
from exchanged import FEATURES, WIDTH, planted
from safetensors.torch import load_file, save, save_file

from sae.checkpoint import save_dictionary
from sae.errors import InputError
from sae.interoperability.exchange import export_dictionary, import_dictionary
from sae.storage import Place, sha256_hex


@pytest.fixture
def exported(tmp_path):
    """Exports one of our TopK dictionaries to a layout; returns the directory."""

    def export(layout, architecture="topk"):
        save_dictionary(Place(tmp_path / "ours"), planted(architecture), {})
        export_dictionary(Place(tmp_path / "ours"), layout, Place(tmp_path / layout))
        return tmp_path / layout

    return export


def refused(directory, message, layout=None):
    output = Place(directory.parent / "imported")
    with pytest.raises(InputError, match=message) as found:
        import_dictionary(Place(directory), output, layout)
    assert "\n" not in str(found.value)
    assert output.list() == []


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


class Harm:
    """Unpickling it would create the file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("wrapped", [pickle.dumps, lambda harm: torch_bytes({"encoder.weight": harm})], ids=["pickle", "torch"])
def test_a_pickle_that_calls_something_is_not_obeyed(exported, tmp_path, wrapped):
    directory = exported("dictionary_learning")
    (directory / "ae.pt").write_bytes(wrapped(Harm(tmp_path / "harmed")))
    refused(directory, "holds more than tensors")
    assert not (tmp_path / "harmed").exists()


def torch_bytes(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("layout", ["saelens", "dictionary_learning", "sparsify"])
def test_weights_cut_short_are_refused(exported, layout):
    directory = exported(layout)
    (weights,) = (path for path in directory.iterdir() if path.suffix in (".safetensors", ".pt"))
    weights.write_bytes(weights.read_bytes()[:-100])
    refused(directory, "is not a whole safetensors file|is damaged or holds more")


def test_a_size_is_what_the_tensors_have_and_not_what_is_promised(exported):
    directory = exported("saelens")
    change(directory / "cfg.json", d_sae=10**12)  # memory for that many features would be the end of the process
    refused(directory, f"d_sae is 1000000000000, but the weights have {FEATURES}")


def test_tensors_of_shapes_that_do_not_fit_are_named(exported):
    directory = exported("saelens")
    tensors = load_file(directory / "sae_weights.safetensors")
    save_file(tensors | {"b_enc": torch.zeros(FEATURES + 1)}, directory / "sae_weights.safetensors")
    refused(directory, rf"b_enc is \[{FEATURES + 1}\], expected \[{FEATURES}\]")


@pytest.mark.parametrize(
    ("layout", "file", "values", "message"),
    [
        ("saelens", "cfg.json", {"architecture": "temporal"}, "the architecture 'temporal' has no counterpart here"),
        ("saelens", "cfg.json", {"architecture": "gated"}, "k is 5, but 'gated' does not use it"),
        ("saelens", "cfg.json", {"architecture": "gated", "k": None}, "lacks b_gate, b_mag, r_mag and also has b_enc"),
        ("saelens", "cfg.json", {"normalize_activations": "layer_norm"}, "computed anew for each input and have no counterpart here"),
        ("saelens", "cfg.json", {"k": FEATURES + 1}, f"k is {FEATURES + 1}, expected a whole number from 1 to {FEATURES}"),
        ("saelens", "cfg.json", {"k": "__import__('os')"}, "expected a whole number of at least 1"),
        ("saelens", "cfg.json", {"metadata": "text"}, "metadata is str, expected dict"),
        ("sparsify", "cfg.json", {"activation": "groupmax"}, "Another rule than TopK cannot be imported"),
        ("sparsify", "cfg.json", {"skip_connection": True}, "a linear path around its features cannot be imported"),
        ("sparsify", "cfg.json", {"d_in": 7}, f"d_in is 7, but the weights have {WIDTH}"),
        ("dictionary_learning", "config.json", {"trainer": {"dict_class": "os.system"}}, "dict_class 'os.system' has no counterpart"),
        (
            "dictionary_learning",
            "config.json",
            {"trainer": {"dict_class": "GatedAutoEncoder"}},
            "lacks decoder_bias, gate_bias, mag_bias, r_mag and also has",
        ),
        ("dictionary_learning", "config.json", {"trainer": None}, "trainer is NoneType, expected dict"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(exported, layout, file, values, message):
    directory = exported(layout)
    change(directory / file, **values)
    refused(directory, message)


def test_weights_that_are_no_numbers_are_refused(exported):
    directory = exported("sparsify")
    tensors = load_file(directory / "sae.safetensors")
    tensors["W_dec"][3, 4] = float("nan")
    save_file(tensors, directory / "sae.safetensors")
    refused(directory, "W_dec holds NaN or infinity")
    save_file(tensors | {"W_dec": torch.zeros(FEATURES, WIDTH, dtype=torch.int64)}, directory / "sae.safetensors")
    refused(directory, "W_dec is of type torch.int64")


def test_a_path_in_a_configuration_is_text_and_leads_nowhere(exported, tmp_path):
    directory = exported("saelens")
    change(directory / "cfg.json", metadata={"sae_lens_version": "6.54.12", "hook_name": "../../../../etc/passwd", "model_name": "/etc/shadow"})
    before = {path for path in tmp_path.rglob("*")}
    import_dictionary(Place(directory), Place(tmp_path / "imported"))
    written = {path for path in tmp_path.rglob("*")} - before
    assert {path.relative_to(tmp_path).as_posix() for path in written} == {"imported", "imported/config.json", "imported/weights.safetensors"}
    assert json.loads((tmp_path / "imported" / "config.json").read_text())["metadata"]["hookpoint"] == "../../../../etc/passwd"


def test_a_directory_without_a_known_layout_says_what_was_expected(tmp_path):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", r"cfg\.json and sae_weights\.safetensors \(saelens\)")


def test_a_dictionary_of_ours_needs_no_import(tmp_path):
    save_dictionary(Place(tmp_path / "ours"), planted("relu"), {})
    refused(tmp_path / "ours", "a dictionary of this tool, which needs no import")


def test_sixteen_bit_weights_become_thirty_two_bit_ones(exported, tmp_path):
    directory = exported("sparsify")
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(directory / "sae.safetensors").items()}
    (directory / "sae.safetensors").write_bytes(save(tensors))
    form = import_dictionary(Place(directory), Place(tmp_path / "imported"))
    assert torch.equal(form.W_dec, tensors["W_dec"].float())


class TestOutput:
    def test_an_output_that_holds_something_is_not_touched(self, exported, tmp_path):
        directory = exported("saelens")
        before = {path.name: sha256_hex(path.read_bytes()) for path in directory.iterdir()}
        with pytest.raises(InputError, match="holds README.md already"):
            export_dictionary(Place(tmp_path / "ours"), "saelens", Place(directory))
        with pytest.raises(InputError, match="holds README.md already"):
            import_dictionary(Place(directory), Place(directory))
        assert {path.name: sha256_hex(path.read_bytes()) for path in directory.iterdir()} == before

    def test_what_a_layout_cannot_say_is_refused_before_anything_is_written(self, tmp_path):
        save_dictionary(Place(tmp_path / "ours"), planted("relu"), {})
        with pytest.raises(InputError, match="sparsify holds TopK dictionaries only, and the features of this one follow the relu rule"):
            export_dictionary(Place(tmp_path / "ours"), "sparsify", Place(tmp_path / "out"))
        assert Place(tmp_path / "out").list() == []
