"""Passes that begin at a hookpoint give what whole passes give."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from sae.subject.model import Subject, SubjectConfig
from sae.subject.plain_model import ModuleSide
from sae.subject.replay import BridgeRuns, ReplayedRuns


@pytest.fixture(scope="module")
def subject(tiny_subject_directory):
    return Subject.load(SubjectConfig(model=str(tiny_subject_directory)))


@pytest.fixture
def tokens():
    return torch.randint(0, 300, (3, 12), generator=torch.Generator().manual_seed(0))


HOOKPOINTS = ("blocks.0.hook_resid_pre", "blocks.0.attn.hook_z", "blocks.0.mlp.hook_post", "blocks.0.hook_mlp_out", "blocks.0.hook_resid_post")


@pytest.mark.parametrize("hookpoint", HOOKPOINTS)
def test_a_pass_with_another_activation_is_that_of_the_bridge(subject, tokens, hookpoint):
    runs = subject.spliced_runs(tokens, hookpoint)
    torch.testing.assert_close(runs.logits, subject.logits(tokens), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(runs.activation, subject.activations(tokens, [hookpoint])[hookpoint], atol=1e-4, rtol=1e-4)
    for replace in (torch.zeros_like, torch.neg, torch.zeros_like):  # the third as the first: nothing is used up
        torch.testing.assert_close(runs.logits_with(replace), subject.logits_with(tokens, hookpoint, replace), atol=1e-4, rtol=1e-4)
    assert not torch.equal(runs.logits_with(torch.zeros_like), runs.logits), "the hookpoint matters"


def test_hookpoints_of_plain_modules_are_replayed_and_others_are_not(subject, tokens):
    assert isinstance(subject.spliced_runs(tokens, "blocks.0.mlp.hook_post"), ReplayedRuns)
    assert isinstance(subject.spliced_runs(tokens, "blocks.0.attn.hook_q"), BridgeRuns)


@pytest.fixture
def deep():
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=16, n_embd=8, n_layer=4, n_head=2, resid_pdrop=0.0)).eval()


def test_what_lies_before_the_hookpoint_runs_once(deep):
    """And the model is left as it was: its own forward methods, no hook, the same logits."""
    tokens = torch.arange(12)[None]
    calls = []
    for index, block in enumerate(deep.transformer.h):
        block.attn.register_forward_pre_hook(lambda *_, index=index: calls.append(index))
        block.mlp.c_fc.register_forward_hook(lambda *_, index=index: calls.append(f"mlp {index}"))
    hooks = {name: len(module._forward_hooks) + len(module._forward_pre_hooks) for name, module in deep.named_modules()}
    runs = ReplayedRuns(deep, tokens, ModuleSide("transformer.h.2", is_input=False))
    calls.clear()
    again = runs.logits_with(lambda activation: activation)
    assert calls == [3, "mlp 3"]
    with torch.no_grad():
        assert torch.equal(again, runs.logits)
        assert torch.equal(deep(tokens).logits, runs.logits)
    assert calls[2:] == [0, "mlp 0", 1, "mlp 1", 2, "mlp 2", 3, "mlp 3"]
    assert not any("forward" in vars(module) for module in deep.modules())
    assert {name: len(module._forward_hooks) + len(module._forward_pre_hooks) for name, module in deep.named_modules()} == hooks


def test_a_pass_that_fails_leaves_the_model_as_it_was(deep):
    tokens = torch.arange(12)[None]
    runs = ReplayedRuns(deep, tokens, ModuleSide("transformer.h.1.mlp.c_proj", is_input=True))
    with pytest.raises(RuntimeError):
        runs.logits_with(lambda activation: activation[:, :3])
    with torch.no_grad():
        assert torch.equal(deep(tokens).logits, runs.logits)
    assert not any("forward" in vars(module) for module in deep.modules())
