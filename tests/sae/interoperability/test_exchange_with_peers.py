"""Other libraries get the same features from what was exported to them, and so do we from what they made."""

import foreign
import pytest
import torch
from exchanged import EXPORTABLE, WIDTH, planted
from safetensors.torch import load_file, save_file

import sae
from sae.checkpoint import save_dictionary
from sae.interoperability.exchange import LAYOUTS, export_dictionary, import_dictionary
from sae.storage import Place
from tests.benchmarks.peers import Peer, Skipped

MADE = {
    "saelens": ["standard", "topk", "jumprelu", "gated", "transcoder"],
    "dictionary_learning": [
        *("AutoEncoder", "AutoEncoderNew", "AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE", "JumpReluAutoEncoder", "GatedAutoEncoder"),
    ],
    "sparsify": ["topk", "transcoder"],
}


@pytest.fixture(scope="module")
def peer():
    try:
        running = Peer("tests.sae.interoperability.peer_libraries")
    except Skipped as reason:
        pytest.skip(str(reason))
    with running:
        yield running


@pytest.fixture
def x():
    return 3 * torch.randn(40, WIDTH, generator=torch.Generator().manual_seed(5))


def close(found, expected):
    return (found - expected).abs().max().item() < 1e-5 * max(1.0, expected.abs().max().item())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_library_computes_the_features_of_the_dictionary_exported_to_it(tmp_path, peer, x, layout):
    for name in EXPORTABLE[layout]:
        dictionary = planted(name)
        save_dictionary(Place(tmp_path / name), dictionary, {"hookpoint": "blocks.0.mlp.hook_post"})
        export_dictionary(Place(tmp_path / name), layout, Place(tmp_path / f"{name}-exported"))
        save_file({"x": x}, tmp_path / "x.safetensors")
        peer.ask(action="load", layout=layout, directory=str(tmp_path / f"{name}-exported"), tensors=str(tmp_path / "x.safetensors"))
        theirs = load_file(tmp_path / "x.safetensors")
        with torch.no_grad():
            features, reconstruction = dictionary.encode(x), dictionary(x)
        assert 0 < (features > 0).double().mean() < 0.9, name
        assert torch.equal(theirs["features"] > 0, features > 0), name
        assert close(theirs["features"], features), name
        assert close(theirs["reconstruction"], reconstruction), name


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_dictionary_that_a_library_made_has_its_features_here(tmp_path, peer, x, layout):
    for kind in MADE[layout]:
        save_file({"x": x}, tmp_path / "x.safetensors")
        peer.ask(action="make", layout=layout, kind=kind, directory=str(tmp_path / kind), tensors=str(tmp_path / "x.safetensors"))
        theirs = load_file(tmp_path / "x.safetensors")
        import_dictionary(Place(tmp_path / kind), Place(tmp_path / f"{kind}-imported"))
        dictionary = sae.load_dictionary(tmp_path / f"{kind}-imported")
        with torch.no_grad():
            features, reconstruction = dictionary.encode(x), dictionary(x)
        assert 0 < (theirs["features"] > 0).double().mean() < 0.9, kind
        assert torch.equal(features > 0, theirs["features"] > 0), kind
        assert close(features, theirs["features"]), kind
        assert close(reconstruction, theirs["reconstruction"]), kind


OLDER_SAELENS = {
    "topk in the activation": ("topk", {"architecture": "standard", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}}),
    "topk in its arguments": ("topk", {"architecture": "topk", "activation_fn_kwargs": {"k": 4}}),
    "first release": (
        "relu",
        {"hook_point": "blocks.{layer}.hook_resid_pre", "hook_point_layer": 2, "activation_fn": "relu", "normalize_activations": False},
    ),
    "no b_dec in the input": ("relu", {"apply_b_dec_to_input": False, "normalize_activations": None}),
    "half precision": ("relu", {"dtype": "torch.bfloat16"}),
    "jumprelu": ("jumprelu", {"architecture": "jumprelu"}),
    "gated": ("gated", {"architecture": "gated"}),
}


@pytest.mark.parametrize("case", OLDER_SAELENS)
def test_a_configuration_before_release_6_means_what_saelens_makes_of_it(tmp_path, peer, case):
    rule, config = OLDER_SAELENS[case]
    directory = foreign.saelens_directory(tmp_path / "theirs", config, foreign.saelens_tensors(rule))
    x = 2 * foreign.drawn(40, foreign.WIDTH)
    x = x.bfloat16().float()
    save_file({"x": x}, tmp_path / "x.safetensors")
    peer.ask(action="load", layout="saelens", directory=str(directory), tensors=str(tmp_path / "x.safetensors"))
    theirs = load_file(tmp_path / "x.safetensors")
    form = import_dictionary(Place(directory), Place(tmp_path / "imported"))
    tolerance = 3e-2 if "bfloat16" in str(config) else 1e-5  # their arithmetic is in the precision of the weights, ours in float32
    features = form.encode(x)
    assert 0 < (features > 0).double().mean() < 0.9
    torch.testing.assert_close(features, theirs["features"].float(), rtol=tolerance, atol=10 * tolerance)
    torch.testing.assert_close(form.decode(features), theirs["reconstruction"].float(), rtol=tolerance, atol=20 * tolerance)


@pytest.mark.parametrize(("layout", "architecture", "d_out"), [("saelens", "relu", 24), ("saelens", "jumprelu", 24), ("sparsify", "topk", WIDTH)])
def test_a_library_computes_what_the_transcoder_exported_to_it_does(tmp_path, peer, x, layout, architecture, d_out):
    transcoder = planted(architecture, d_out)
    save_dictionary(Place(tmp_path / "ours"), transcoder, {})
    export_dictionary(Place(tmp_path / "ours"), layout, Place(tmp_path / "exported"))
    save_file({"x": x}, tmp_path / "x.safetensors")
    peer.ask(action="load", layout=layout, directory=str(tmp_path / "exported"), tensors=str(tmp_path / "x.safetensors"))
    theirs = load_file(tmp_path / "x.safetensors")
    with torch.no_grad():
        assert close(theirs["features"], transcoder.encode(x))
        assert close(theirs["reconstruction"], transcoder(x))


def test_heads_come_to_saelens_as_its_hook_gives_them_and_lie_side_by_side_here(tmp_path, peer, x):
    dictionary = planted("topk")
    save_dictionary(Place(tmp_path / "ours"), dictionary, {"hookpoint": "blocks.0.attn.hook_z"})
    export_dictionary(Place(tmp_path / "ours"), "saelens", Place(tmp_path / "exported"))
    heads = x.unflatten(1, (4, WIDTH // 4)).contiguous()
    save_file({"x": heads}, tmp_path / "x.safetensors")
    peer.ask(action="load", layout="saelens", directory=str(tmp_path / "exported"), tensors=str(tmp_path / "x.safetensors"))
    theirs = load_file(tmp_path / "x.safetensors")
    with torch.no_grad():
        assert close(theirs["features"], dictionary.encode(x))
        assert close(theirs["reconstruction"].flatten(1), dictionary(x))
