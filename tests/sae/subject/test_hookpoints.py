"""Every kind of hookpoint of three model families, compared with the modules of plain Hugging Face models."""

import shutil

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

from sae.subject.model import Subject, SubjectConfig

LAYERS = 2
SIZES = dict(vocab_size=300, bos_token_id=0, eos_token_id=0)
MODELS = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_embd=24, n_layer=LAYERS, n_head=3, n_inner=40, n_positions=32, **SIZES)),
    "neox": lambda: GPTNeoXForCausalLM(
        GPTNeoXConfig(hidden_size=24, num_hidden_layers=LAYERS, num_attention_heads=3, intermediate_size=40, max_position_embeddings=32, **SIZES)
    ),
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(
            hidden_size=24, num_hidden_layers=LAYERS, num_attention_heads=3, num_key_value_heads=3, intermediate_size=40,
            max_position_embeddings=32, **SIZES
        )
    ),
}  # fmt: skip

# Hookpoint -> (module of a Hugging Face block, "in" or "out"); "" is the block itself.
PLACES = {
    "gpt2": {
        "hook_resid_pre": ("", "in"), "hook_resid_mid": ("ln_2", "in"), "hook_resid_post": ("", "out"),
        "attn.hook_z": ("attn.c_proj", "in"), "hook_attn_out": ("attn", "out"), "attn.hook_out": ("attn", "out"),
        "mlp.hook_pre": ("mlp.c_fc", "out"), "mlp.hook_post": ("mlp.c_proj", "in"), "hook_mlp_out": ("mlp", "out"), "mlp.hook_out": ("mlp", "out"),
    },
    "neox": {
        "hook_resid_pre": ("", "in"), "hook_resid_post": ("", "out"),
        "attn.hook_z": ("attention.dense", "in"), "hook_attn_out": ("attention", "out"), "attn.hook_out": ("attention", "out"),
        "mlp.hook_pre": ("mlp.dense_h_to_4h", "out"), "mlp.hook_post": ("mlp.dense_4h_to_h", "in"), "hook_mlp_out": ("mlp", "out"),
        "mlp.hook_out": ("mlp", "out"),
    },
    "llama": {
        "hook_resid_pre": ("", "in"), "hook_resid_mid": ("post_attention_layernorm", "in"), "hook_resid_post": ("", "out"),
        "attn.hook_z": ("self_attn.o_proj", "in"), "hook_attn_out": ("self_attn", "out"), "attn.hook_out": ("self_attn", "out"),
        "mlp.hook_pre": ("mlp.gate_proj", "out"), "mlp.hook_post": ("mlp.down_proj", "in"), "hook_mlp_out": ("mlp", "out"),
        "mlp.hook_out": ("mlp", "out"),
    },
}  # fmt: skip
CASES = [(family, block, name) for family, places in PLACES.items() for block in range(LAYERS) for name in places]


def blocks_of(model: nn.Module) -> nn.ModuleList:
    return next(module for module in model.modules() if isinstance(module, nn.ModuleList))


def read_module(model: nn.Module, module: nn.Module, side: str, tokens: torch.Tensor) -> torch.Tensor:
    """The input or the output of a module in a whole forward pass."""
    seen = []

    def hook(module, given, named, output):
        value = (given[0] if given else named["hidden_states"]) if side == "in" else output
        seen.append(value[0] if isinstance(value, tuple) else value)

    with module.register_forward_hook(hook, with_kwargs=True), torch.no_grad():
        model(tokens, use_cache=False)
    return seen[0]


@pytest.fixture(scope="module")
def directories(tmp_path_factory, tiny_subject_directory):
    made = {}
    for family, build in MODELS.items():
        made[family] = tmp_path_factory.mktemp(family)
        for path in tiny_subject_directory.glob("*token*"):
            shutil.copy(path, made[family])
        torch.manual_seed(1)
        model = build()
        with torch.no_grad():
            for parameter in model.parameters():  # larger than the initial ones, whose outputs are all alike
                parameter.copy_(torch.randn_like(parameter) * (0.3 if parameter.ndim > 1 else 0.1) + (0 if parameter.ndim > 1 else 1))
        model.save_pretrained(made[family])
    return made


@pytest.fixture(scope="module")
def subjects(directories):
    return {family: Subject.load(SubjectConfig(model=str(directory))) for family, directory in directories.items()}


@pytest.fixture(scope="module")
def plain(directories):
    return {family: AutoModelForCausalLM.from_pretrained(directory).eval() for family, directory in directories.items()}


@pytest.fixture
def tokens():
    return torch.randint(1, 300, (3, 17), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("family", "block", "name"), CASES)
def test_a_hookpoint_is_the_activation_of_its_module(subjects, plain, tokens, family, block, name):
    path, side = PLACES[family][name]
    expected = read_module(plain[family], blocks_of(plain[family])[block].get_submodule(path), side, tokens)
    hookpoint = f"blocks.{block}.{name}"
    found = subjects[family].activations(tokens, [hookpoint])[hookpoint]
    assert found.shape == (3, 17, subjects[family].width(hookpoint))
    torch.testing.assert_close(found, expected.flatten(2), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", MODELS)
def test_all_hookpoints_in_one_pass_are_those_of_single_passes(subjects, tokens, family):
    names = [f"blocks.{block}.{name}" for block in range(LAYERS) for name in PLACES[family]]
    together = subjects[family].activations(tokens, names)
    assert list(together) == names
    for name in names:
        assert torch.equal(together[name], subjects[family].activations(tokens, [name])[name])


# Attention's split queries are no module's output in GPT-2: with them the bridge itself is run.
@pytest.mark.parametrize(
    ("family", "further", "model_run"), [("gpt2", [], 0), ("neox", [], 0), ("llama", [], 0), ("gpt2", ["blocks.0.attn.hook_q"], 1)]
)
def test_nothing_after_the_last_hookpoint_is_run(subjects, tokens, family, further, model_run):
    subject = subjects[family]
    names = ["blocks.0.hook_resid_pre", "blocks.0.mlp.hook_pre", *further]
    subject.activations(tokens, names)  # the first call compares plain model and bridge
    ran = []
    models = [subject._plain, subject._bridge.original_model]
    handles = [
        module.register_forward_hook(lambda *_, label=f"{number} {path}": ran.append(label))
        for number, model in enumerate(models)
        for path, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, nn.Embedding | nn.Linear) or type(module).__name__ == "Conv1D"
    ]
    subject.activations(tokens, names)
    for handle in handles:
        handle.remove()
    later = (".1.", "lm_head", "embed_out", "mlp.c_proj", "dense_4h_to_h", "down_proj")
    assert {int(label.split()[0]) for label in ran} == {model_run}
    assert not [label for label in ran if any(part in label for part in later)]
