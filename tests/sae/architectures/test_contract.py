"""The contract of every dictionary, and its published formula restated densely."""

import copy

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load, save

from sae.architectures.base import StepContext
from sae.architectures.config import ReluConfig, SAEConfig, TopKConfig
from sae.architectures.registry import ARCHITECTURES, build_dictionary
from sae.errors import ConfigError, WidthError
from sae.kernels.sparse import SparseFeatures

D_IN, D_SAE, BATCH = 24, 96, 80
SCALE = 0.5
CONFIGS = {
    "relu": ReluConfig(d_sae=D_SAE, l1_coefficient=0.02),
    "topk": TopKConfig(d_sae=D_SAE, k=6, aux_k=8),
}


def relu_formula(dictionary, x, dead):
    """Towards Monosemanticity: mean over elements of the squared error, sum over features of the L1 term, mean over the batch."""
    f = torch.relu((x - dictionary.b_dec) @ dictionary.W_enc + dictionary.b_enc)
    reconstruction = f @ dictionary.W_dec + dictionary.b_dec
    loss = ((x - reconstruction) ** 2).mean() + dictionary.config.l1_coefficient * f.sum(1).mean()
    return f, reconstruction, loss


def topk_formula(dictionary, x, dead):
    """Gao et al.: TopK of the pre-activations; dead features explain what the reconstruction left over."""

    def keep_largest(values, k):
        kept = values.topk(k, dim=1)
        return torch.zeros_like(values).scatter(1, kept.indices, kept.values.relu())

    def normalized(target, guess):
        return ((target - guess) ** 2).sum() / ((target - target.mean(0)) ** 2).sum()

    pre = (x - dictionary.b_dec) @ dictionary.W_enc + dictionary.b_enc
    f = keep_largest(pre, dictionary.config.k)
    reconstruction = f @ dictionary.W_dec + dictionary.b_dec
    loss = normalized(x, reconstruction)
    if dead is not None:
        aux = keep_largest(pre.masked_fill(~dead, -torch.inf), min(dictionary.config.aux_k, int(dead.sum())))
        loss = loss + dictionary.config.aux_coefficient * normalized((x - reconstruction).detach(), aux @ dictionary.W_dec)
    return f, reconstruction, loss


FORMULAS = {"relu": relu_formula, "topk": topk_formula}


@pytest.fixture(params=sorted(ARCHITECTURES))
def dictionary(request):
    """A dictionary with weights as after some training: biases not 0, decoder and encoder apart, unit-norm decoder."""
    built = build_dictionary(CONFIGS[request.param], D_IN)
    generator = torch.Generator().manual_seed(3)
    built.input_scale.fill_(SCALE)
    built.initialize(torch.randn(D_IN, generator=generator), generator)
    with torch.no_grad():
        built.W_enc += 0.3 * torch.randn(D_IN, D_SAE, generator=generator)
        built.b_enc -= torch.rand(D_SAE, generator=generator)
    return built


@pytest.fixture
def x():
    return 3 * torch.randn(BATCH, D_IN, generator=torch.Generator().manual_seed(4)) + 1


def some_dead():
    return torch.arange(D_SAE) % 5 == 0


def test_every_member_of_the_registry_is_tested():
    assert set(CONFIGS) == set(FORMULAS) == set(ARCHITECTURES)


def test_shapes_and_signs(dictionary, x):
    dense, sparse = dictionary.encode(x), dictionary.encode_sparse(x)
    assert dense.shape == (BATCH, D_SAE)
    assert (dense >= 0).all()
    assert dense.any()
    assert torch.equal(sparse.to_dense(), dense)
    assert dictionary(x).shape == dictionary.decode(sparse).shape == (BATCH, D_IN)
    torch.testing.assert_close(dictionary.decode(dense), dictionary(x))


@pytest.mark.parametrize("dead", [None, some_dead()], ids=["none-dead", "some-dead"])
def test_features_losses_and_gradients_are_those_of_the_published_formula(dictionary, x, dead):
    found = dictionary.training_pass(x, StepContext(dead=dead))
    found.losses["total"].backward()
    reference = copy.deepcopy(dictionary).double()
    reference.zero_grad()
    features, reconstruction, loss = FORMULAS[dictionary.architecture](reference, SCALE * x.double(), dead)
    loss.backward()

    assert found.losses["total"].item() == pytest.approx(loss.item(), rel=1e-6)
    torch.testing.assert_close(found.features.to_dense().double(), features.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.reconstruction.double(), reconstruction.detach() / SCALE, rtol=1e-5, atol=1e-5)
    for name, parameter in dictionary.named_parameters():
        expected = reference.get_parameter(name).grad
        assert (parameter.grad.double() - expected).norm() < 1e-5 * expected.norm(), name


def test_the_loss_is_the_sum_of_its_terms(dictionary, x):
    losses = dictionary.training_pass(x, StepContext(dead=some_dead())).losses
    assert losses["total"].item() == pytest.approx(sum(loss.item() for name, loss in losses.items() if name != "total"))
    assert all(loss.ndim == 0 for loss in losses.values())


def test_a_training_pass_tells_what_it_computed(dictionary, x):
    found = dictionary.training_pass(x)
    features = dictionary.encode(x)
    assert isinstance(found.features, SparseFeatures)
    assert torch.equal(found.features.to_dense(), features)
    assert torch.equal(found.firings, (features > 0).sum(0))
    assert torch.equal(found.active, (features > 0).any(0))
    torch.testing.assert_close(found.reconstruction, dictionary(x))
    assert not found.reconstruction.requires_grad


def test_rows_are_independent(dictionary, x):
    torch.testing.assert_close(dictionary(x)[10:13], dictionary(x[10:13]))


def test_no_features_decode_to_the_bias_in_raw_units(dictionary):
    nothing = torch.zeros(2, D_SAE)
    torch.testing.assert_close(dictionary.decode(nothing), (dictionary.b_dec / SCALE).expand(2, D_IN))
    torch.testing.assert_close(dictionary.decode(SparseFeatures.from_dense(nothing)), dictionary.decode(nothing))


def test_activations_in_other_units_give_the_same_features_and_losses(dictionary, x):
    same = copy.deepcopy(dictionary)
    same.input_scale.fill_(SCALE / 4)
    torch.testing.assert_close(same.encode(4 * x), dictionary.encode(x))
    torch.testing.assert_close(same(4 * x), 4 * dictionary(x))
    torch.testing.assert_close(same.training_pass(4 * x).losses, dictionary.training_pass(x).losses)


def test_decoder_rows_have_unit_norm_at_the_start_and_after_every_step(dictionary, x):
    optimizer = torch.optim.Adam(dictionary.parameters(), lr=0.1)
    for _ in range(2):
        torch.testing.assert_close(dictionary.W_dec.norm(dim=1), torch.ones(D_SAE))
        dictionary.training_pass(x).losses["total"].backward()
        dictionary.before_step()
        along = (dictionary.W_dec.grad * dictionary.W_dec).sum(1)
        assert along.abs().max() < 1e-6
        optimizer.step()
        dictionary.after_step()
    torch.testing.assert_close(dictionary.W_dec.norm(dim=1), torch.ones(D_SAE))


def test_vector_losses_average_to_the_loss_of_the_batch(dictionary, x):
    each = dictionary.vector_losses(x)
    assert each.shape == (BATCH,)
    assert not each.requires_grad
    if dictionary.architecture == "relu":
        assert each.mean().item() == pytest.approx(dictionary.training_pass(x).losses["total"].item(), rel=1e-6)
    else:
        torch.testing.assert_close(each, (SCALE * (x - dictionary(x).detach())).square().mean(1))


def test_saved_and_loaded_weights_are_the_same_bits(dictionary, x):
    loaded = build_dictionary(dictionary.config, D_IN)
    loaded.load_state_dict(load(save(dictionary.state_dict())))
    assert torch.equal(loaded(x), dictionary(x))
    assert set(dictionary.state_dict()) == {"W_enc", "b_enc", "W_dec", "b_dec", "input_scale"}


def test_the_same_seed_gives_the_same_start(dictionary):
    starts = []
    for seed in (7, 7, 8):
        dictionary.initialize(torch.ones(D_IN), torch.Generator().manual_seed(seed))
        starts.append({name: weight.clone() for name, weight in dictionary.state_dict().items()})
    assert all(torch.equal(starts[0][name], starts[1][name]) for name in starts[0])
    assert not torch.equal(starts[0]["W_dec"], starts[2]["W_dec"])
    assert torch.equal(starts[0]["b_dec"], torch.ones(D_IN))
    assert not starts[0]["b_enc"].any()


def test_gradients_reach_the_activations(dictionary, x):
    x = x.requires_grad_()
    dictionary(x).sum().backward()
    reference = copy.deepcopy(dictionary).double()
    other = x.detach().double().requires_grad_()
    (FORMULAS[dictionary.architecture](reference, SCALE * other, None)[1] / SCALE).sum().backward()
    torch.testing.assert_close(x.grad.double(), other.grad, rtol=1e-4, atol=1e-5)


def test_activations_of_another_width_are_refused(dictionary):
    with pytest.raises(WidthError, match=rf"\[3, 5\].*\[batch, {D_IN}\]"):
        dictionary.encode(torch.zeros(3, 5))


def test_the_key_architecture_chooses_the_configuration():
    adapter = TypeAdapter(SAEConfig)
    assert adapter.validate_python({"architecture": "topk", "d_sae": 64, "k": 4}) == TopKConfig(d_sae=64, k=4)
    with pytest.raises(ValidationError, match="k"):
        adapter.validate_python({"architecture": "relu", "k": 4})
    with pytest.raises(ConfigError, match="k 9 is more than d_sae 8"):
        TopKConfig.parse({"d_sae": 8, "k": 9})
