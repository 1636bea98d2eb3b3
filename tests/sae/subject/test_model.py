"""The subject model seen through hookpoints, checked against the plain Hugging Face model it wraps."""

import pytest
import torch
from transformers import GPT2LMHeadModel

from sae.errors import HookpointError, InputError, WidthError
from sae.subject.model import Subject, SubjectConfig, load_tokenizer

MLP = "blocks.0.mlp.hook_post"


@pytest.fixture(scope="module")
def subject(tiny_subject_directory):
    return Subject.load(SubjectConfig(model=str(tiny_subject_directory)))


@pytest.fixture(scope="module")
def plain(tiny_subject_directory):
    return GPT2LMHeadModel.from_pretrained(tiny_subject_directory).eval()


@pytest.fixture
def tokens():
    return torch.randint(0, 300, (3, 12), generator=torch.Generator().manual_seed(0))


def test_logits_are_those_of_the_plain_model(subject, plain, tokens):
    with torch.no_grad():
        expected = plain(tokens).logits
    torch.testing.assert_close(subject.logits(tokens), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", [MLP, "blocks.0.mlp.out.hook_in"])
def test_an_alias_and_its_canonical_name_give_the_mlp_activation(subject, plain, tokens, name):
    seen = []
    handle = plain.transformer.h[0].mlp.c_proj.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    with torch.no_grad():
        plain(tokens)
    handle.remove()
    found = subject.activations(tokens, [name])[name]
    assert found.shape == (3, 12, 32) == (3, 12, subject.width(name))
    torch.testing.assert_close(found, seen[0], atol=1e-4, rtol=1e-4)


def test_several_hookpoints_in_one_pass(subject, tokens):
    names = ["blocks.0.hook_resid_pre", MLP, "blocks.0.mlp.out.hook_in"]
    found = subject.activations(tokens, names)
    assert list(found) == names
    assert found["blocks.0.hook_resid_pre"].shape == (3, 12, 16)
    assert torch.equal(found[MLP], found["blocks.0.mlp.out.hook_in"])


def test_heads_lie_side_by_side(subject, tokens):
    assert subject.activations(tokens, ["blocks.0.attn.hook_z"])["blocks.0.attn.hook_z"].shape == (3, 12, 16)


def test_the_run_stops_at_the_last_hookpoint(subject, tokens):
    reached = []
    bridge = subject._bridge
    handles = [
        bridge.blocks[0].mlp.out.original_component.register_forward_hook(lambda *_: reached.append("mlp out")),
        bridge.unembed.original_component.register_forward_hook(lambda *_: reached.append("unembed")),
    ]
    subject.activations(tokens, [MLP])
    assert reached == []
    subject.logits(tokens)
    assert reached == ["mlp out", "unembed"]
    for handle in handles:
        handle.remove()


def test_no_hook_is_left_behind(subject, tokens):
    before = subject.logits(tokens)
    subject.activations(tokens, [MLP])
    subject.logits_with(tokens, MLP, torch.zeros_like)

    def broken(activation):
        raise KeyError("planted")

    with pytest.raises(KeyError, match="planted"):
        subject.logits_with(tokens, MLP, broken)
    assert not any(point.fwd_hooks for point in subject._bridge.hook_dict.values())
    assert torch.equal(subject.logits(tokens), before)


def test_splicing_replaces_the_activation(subject, plain, tokens):
    clean = subject.logits(tokens)
    assert torch.equal(subject.logits_with(tokens, MLP, lambda activation: activation), clean)
    handle = plain.transformer.h[0].mlp.c_proj.register_forward_pre_hook(lambda module, inputs: (torch.zeros_like(inputs[0]),))
    with torch.no_grad():
        expected = plain(tokens).logits
    handle.remove()
    assert not torch.allclose(expected, clean, atol=1e-2)
    torch.testing.assert_close(subject.logits_with(tokens, MLP, torch.zeros_like), expected, atol=1e-4, rtol=1e-4)


def test_an_unknown_hookpoint_lists_near_names(subject, tokens):
    for call in (subject.width, subject.check_hookpoint, lambda name: subject.logits_with(tokens, name, torch.zeros_like)):
        with pytest.raises(HookpointError, match=r"no hookpoint 'blocks\.0\.mlp\.hook_pots'; near ones: blocks\.0\.mlp\.hook_post"):
            call("blocks.0.mlp.hook_pots")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("blocks.0.attn.hook_pattern", "one vector a token"),
        ("embed.hook_in", "one vector a token"),
        ("blocks.0.attn.hook_result", "cannot be read: .*use_attn_result"),
    ],
)
def test_a_hookpoint_without_a_vector_for_each_token_is_refused(subject, name, reason):
    with pytest.raises(HookpointError, match=reason):
        subject.width(name)


@pytest.mark.parametrize("load", [Subject.load, load_tokenizer])
@pytest.mark.parametrize("model", ["./nowhere", "/no/where", "~/nowhere", "runs/subjects/nowhere"])  # the hub has no name with two slashes
def test_a_missing_model_directory_is_an_input_error(load, model):
    with pytest.raises(InputError, match=f"^no model directory at '{model}'"):
        load(SubjectConfig(model=model))


def restated_effects(plain, written):
    """Centre (layer norm), multiply by the gain, unembed, remove the median: the published formula in plain torch."""
    final = plain.transformer.ln_f
    effects = (written - written.mean(-1, keepdim=True)) * final.weight @ plain.lm_head.weight.T
    return (effects - effects.median(-1, keepdim=True).values).detach()


@pytest.fixture
def with_gains(subject, plain):
    """Layer-norm gains that differ from one another; a fresh model's are all 1 and would hide a forgotten gain."""
    gains = torch.linspace(0.5, 2, 16)
    norms = (subject._bridge.ln_final.original_component, plain.transformer.ln_f)
    with torch.no_grad():
        for norm in norms:
            norm.weight.copy_(gains)
    yield
    with torch.no_grad():
        for norm in norms:
            norm.weight.fill_(1)


@pytest.mark.usefixtures("with_gains")
def test_logit_effects_of_mlp_directions(subject, plain):
    directions = torch.randn(5, 32, generator=torch.Generator().manual_seed(1))
    expected = restated_effects(plain, directions @ plain.transformer.h[0].mlp.c_proj.weight)
    for name in (MLP, "blocks.0.mlp.out.hook_in"):
        torch.testing.assert_close(subject.logit_effects(name, directions), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("with_gains")
@pytest.mark.parametrize("name", ["hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_mlp_out", "hook_attn_out", "mlp.hook_out"])
def test_logit_effects_of_residual_directions(subject, plain, name):
    directions = torch.randn(4, 16, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(subject.logit_effects(f"blocks.0.{name}", directions), restated_effects(plain, directions), atol=1e-4, rtol=1e-4)


def test_logit_effects_of_attention_directions(subject, plain):
    directions = torch.randn(4, 16, generator=torch.Generator().manual_seed(2))
    expected = restated_effects(plain, directions @ plain.transformer.h[0].attn.c_proj.weight)
    torch.testing.assert_close(subject.logit_effects("blocks.0.attn.hook_z", directions), expected, atol=1e-4, rtol=1e-4)


def test_logit_effects_foretell_what_a_small_push_does(subject, tokens):
    direction = torch.randn(1, 32, generator=torch.Generator().manual_seed(3))
    pushed = subject.logits_with(tokens, MLP, lambda activation: activation + 1e-2 * direction) - subject.logits(tokens)
    effects = subject.logit_effects(MLP, direction)[0]
    correlations = [torch.corrcoef(torch.stack([change, effects]))[0, 1] for change in pushed.flatten(0, 1)]
    assert torch.stack(correlations).mean() > 0.9


def test_logit_effects_do_not_run_the_model_off_its_defined_hookpoints(subject):
    with pytest.raises(HookpointError, match=r"not defined at 'blocks\.0\.mlp\.hook_pre'"):
        subject.logit_effects("blocks.0.mlp.hook_pre", torch.zeros(1, 32))
    with pytest.raises(WidthError, match="width 16"):
        subject.logit_effects(MLP, torch.zeros(1, 16))


def test_a_name_or_directory_is_enough_to_load_a_model(subject, tiny_subject_directory):
    assert Subject.load(str(tiny_subject_directory)).digest == subject.digest
