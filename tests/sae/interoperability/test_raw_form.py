"""Folding the input's scale into the weights changes no feature, and the way back finds it again."""

import pytest
import torch
from exchanged import WIDTH, planted

import sae
from sae.architectures.registry import ARCHITECTURES
from sae.checkpoint import save_dictionary
from sae.errors import InputError
from sae.interoperability.exchange import export_dictionary, import_dictionary
from sae.interoperability.raw_form import RULES, raw_form
from sae.storage import Place


@pytest.fixture
def x():
    return 3 * torch.randn(200, WIDTH, generator=torch.Generator().manual_seed(1))


def test_every_architecture_can_be_exchanged():
    assert set(ARCHITECTURES) == set(RULES)


@pytest.mark.parametrize("architecture", RULES)
def test_raw_weights_give_the_features_and_the_reconstruction(architecture, x):
    dictionary = planted(architecture)
    form = raw_form(dictionary)
    with torch.no_grad():
        torch.testing.assert_close(form.encode(x), dictionary.encode(x), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(form.decode(form.encode(x)), dictionary(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", RULES)
@pytest.mark.parametrize("wanted", [True, False])
def test_b_dec_moves_into_the_biases_and_out_again(architecture, wanted, x):
    form = raw_form(planted(architecture))
    torch.testing.assert_close(form.subtracting(wanted).encode(x), form.encode(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", ["saelens", "dictionary_learning"])
@pytest.mark.parametrize("architecture", RULES)
def test_there_and_back_is_the_same_dictionary(tmp_path, architecture, layout, x):
    dictionary = planted(architecture)
    save_dictionary(Place(tmp_path / "ours"), dictionary, {})
    export_dictionary(Place(tmp_path / "ours"), layout, Place(tmp_path / "exported"))
    import_dictionary(Place(tmp_path / "exported"), Place(tmp_path / "back"))
    back = sae.load_dictionary(tmp_path / "back")
    with torch.no_grad():
        torch.testing.assert_close(back.encode(x), dictionary.encode(x), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(back(x), dictionary(x), rtol=1e-4, atol=1e-4)
    if dictionary.unit_norm_decoder:
        assert back.input_scale.item() == pytest.approx(dictionary.input_scale.item(), rel=1e-5)
        torch.testing.assert_close(back.W_dec.norm(dim=1), torch.ones(back.d_sae))


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "tied"])
def test_a_transcoder_has_two_scales_to_fold(architecture, x):
    transcoder = planted(architecture, d_out=24)
    form = raw_form(transcoder)
    with torch.no_grad():
        torch.testing.assert_close(form.encode(x), transcoder.encode(x), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(form.decode(form.encode(x)), transcoder(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("layout", "architecture", "d_out", "message"),
    [
        ("saelens", "gated", 24, "SAELens has no transcoder whose features follow the gated rule"),
        ("dictionary_learning", "relu", 24, "dictionary_learning has no transcoders"),
        ("sparsify", "topk", 24, "from 16 to 24"),
        ("sparsify", "tied", None, "sparsify holds TopK dictionaries only"),
    ],
)
def test_what_a_layout_cannot_say_is_refused(tmp_path, layout, architecture, d_out, message):
    save_dictionary(Place(tmp_path / "ours"), planted(architecture, d_out), {})
    with pytest.raises(InputError, match=message):
        export_dictionary(Place(tmp_path / "ours"), layout, Place(tmp_path / "out"))
