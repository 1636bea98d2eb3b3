"""Only an MLP has neurons; elsewhere the single numbers of an activation are coordinates."""

import pytest

from sae.units import shown_source, unit_name


@pytest.mark.parametrize("name", ["mlp.hook_post", "mlp.hook_pre", "mlp.in.hook_out", "mlp.out.hook_in"])
def test_an_mlp_has_neurons(name):
    assert unit_name(f"blocks.11.{name}") == "neurons"


@pytest.mark.parametrize("name", ["hook_resid_post", "hook_out", "hook_mlp_out", "mlp.hook_out", "mlp.hook_in", "attn.hook_z", "attn.hook_out"])
def test_a_residual_stream_and_an_attention_have_coordinates(name):
    assert unit_name(f"blocks.11.{name}") == "coordinates"


def test_only_the_source_of_that_name_is_renamed():
    assert [shown_source(name, "blocks.0.hook_resid_mid") for name in ("neurons", "pca", "topk")] == ["coordinates", "pca", "topk"]
