"""Widths of hookpoints are known from a model's configuration, so that estimates do not take every one for the residual stream."""

import pytest

from jobs.model_sizes import hookpoint_width, model_configuration
from sae.subject.model import Subject, SubjectConfig

GEMMA = {"hidden_size": 640, "intermediate_size": 2048, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256, "vocab_size": 262_144}


@pytest.mark.parametrize(
    ("hookpoint", "width"),
    [
        ("blocks.9.hook_resid_post", 640),
        ("blocks.9.mlp.hook_out", 640),
        ("blocks.9.mlp.hook_post", 2048),
        ("blocks.9.mlp.out.hook_in", 2048),
        ("blocks.9.attn.hook_z", 1024),
        ("blocks.9.attn.hook_k", 256),
        ("blocks.9.ln1.hook_scale", 1),
        ("blocks.9.attn.hook_pattern", 1),
    ],
)
def test_each_hookpoint_has_its_own_width(hookpoint, width):
    assert hookpoint_width(GEMMA, hookpoint) == width


def test_neurons_of_gpt2_are_four_times_its_width_unless_it_says_otherwise():
    assert hookpoint_width({"n_embd": 768, "n_head": 12, "n_inner": None}, "blocks.0.mlp.hook_post") == 3072
    assert hookpoint_width({"n_embd": 768, "n_head": 12, "n_inner": 100}, "blocks.0.mlp.hook_post") == 100


def test_a_mixture_of_experts_gives_its_output_for_its_neurons():
    mixture = {"hidden_size": 1024, "intermediate_size": 2816, "num_local_experts": 8}
    assert hookpoint_width(mixture, "blocks.0.mlp.hook_post") == 1024


@pytest.mark.parametrize("found", [{}, {"hidden_size": "640"}, {"hidden_size": True}, {"hidden_size": 10**30}, {"hidden_size": -1}])
def test_what_is_not_known_counts_as_one(found):
    assert hookpoint_width(found, "blocks.0.mlp.hook_post") == 1


def test_widths_are_those_of_the_embedded_model():
    subject, found = Subject.load(SubjectConfig()), model_configuration("embedded")
    names = ("hook_resid_post", "mlp.hook_pre", "mlp.hook_post", "mlp.out.hook_in", "attn.hook_z", "attn.hook_k", "ln1.hook_scale")
    for hookpoint in (f"blocks.0.{name}" for name in names):
        assert hookpoint_width(found, hookpoint) == subject.width(hookpoint)
