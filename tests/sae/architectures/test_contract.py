"""The contract of every dictionary, and its published formula restated densely."""

import copy

import pytest
import torch
from published_formulas import FORMULAS, evaluated
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load, save
from threaded_workers import run_ranks

from sae.architectures.base import StepContext
from sae.architectures.config import (
    BatchTopKConfig,
    GatedConfig,
    JumpReluConfig,
    MatryoshkaConfig,
    PAnnealingConfig,
    ReluAprilConfig,
    ReluConfig,
    SAEConfig,
    TiedConfig,
    TopKConfig,
)
from sae.architectures.registry import ARCHITECTURES, build_dictionary
from sae.errors import ConfigError, WidthError
from sae.kernels.sparse import SparseFeatures

D_IN, D_OUT, D_SAE, BATCH = 24, 16, 96, 80
SCALE = 0.5
CONFIGS = {
    "relu": ReluConfig(d_sae=D_SAE, l1_coefficient=0.02),
    "relu_april": ReluAprilConfig(d_sae=D_SAE, l1_coefficient=0.5),
    "tied": TiedConfig(d_sae=D_SAE, l1_coefficient=0.02),
    "p_annealing": PAnnealingConfig(d_sae=D_SAE, l1_coefficient=0.1),
    "gated": GatedConfig(d_sae=D_SAE, l1_coefficient=0.1),
    "topk": TopKConfig(d_sae=D_SAE, k=6, aux_k=8),
    "batch_topk": BatchTopKConfig(d_sae=D_SAE, k=6, aux_k=8),
    "matryoshka": MatryoshkaConfig(d_sae=D_SAE, k=6, aux_k=8),
    "jumprelu": JumpReluConfig(d_sae=D_SAE, l0_coefficient=0.01, bandwidth=0.05, threshold_start=0.1),
}
BATCH_WIDE = ("batch_topk", "matryoshka")  # in training, which features of a vector fire depends on the others
BIASES_START_AT_ZERO = ("relu_april", "tied", "jumprelu")
UNTIED = sorted(set(ARCHITECTURES) - {"tied"})


def trained(architecture, d_out=None):
    """A dictionary with weights as after some training: no bias 0, decoder and encoder apart, every buffer in use."""
    built = build_dictionary(CONFIGS[architecture], D_IN, d_out)
    generator = torch.Generator().manual_seed(3)
    built.initialize(torch.randn(built.d_out, generator=generator), generator)
    built.input_scale.fill_(SCALE)
    if d_out is not None:
        built.output_scale.fill_(SCALE / 2)
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if name != "W_dec":
                parameter += (0.3 if parameter.ndim == 2 else 0.1) * torch.randn(parameter.shape, generator=generator)
        for name in ("b_enc", "b_gate"):
            if hasattr(built, name):
                getattr(built, name).sub_(torch.rand(D_SAE, generator=generator))
    if architecture in BATCH_WIDE:
        built.threshold.fill_(1.5)
    if architecture == "p_annealing":
        built.changes.fill_(4)
        built.factor.fill_(0.7)
    return built


@pytest.fixture(params=sorted(ARCHITECTURES))
def dictionary(request):
    return trained(request.param)


@pytest.fixture(params=UNTIED)
def transcoder(request):
    return trained(request.param, D_OUT)


@pytest.fixture
def x():
    return 3 * torch.randn(BATCH, D_IN, generator=torch.Generator().manual_seed(4)) + 1


@pytest.fixture
def target():
    return torch.randn(BATCH, D_OUT, generator=torch.Generator().manual_seed(5)) - 1


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


def assert_is_the_formula(dictionary, x, target, dead):
    found = dictionary.training_pass(x, StepContext(dead=dead, target=target))
    found.losses["total"].backward()
    reference = copy.deepcopy(dictionary).double()
    reference.zero_grad()
    scale = reference.decoded_scale
    wanted = (x if target is None else target).double() * scale
    features, reconstruction, loss = FORMULAS[dictionary.architecture](reference, SCALE * x.double(), wanted, dead)
    loss.backward()

    assert found.losses["total"].item() == pytest.approx(loss.item(), rel=1e-6)
    torch.testing.assert_close(found.features.to_dense().double(), features.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.reconstruction.double(), (reconstruction / scale).detach(), rtol=1e-5, atol=1e-5)
    for name, parameter in dictionary.named_parameters():
        expected = reference.get_parameter(name).grad
        assert expected.any(), name
        assert (parameter.grad.double() - expected).norm() < 1e-5 * expected.norm(), name


@pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])
@pytest.mark.parametrize("dead", [None, some_dead()], ids=["none-dead", "some-dead"])
def test_features_losses_and_gradients_are_those_of_the_published_formula(dictionary, x, dead, dense, monkeypatch):
    for module in ("features", "selection"):
        monkeypatch.setattr(f"sae.kernels.{module}.DENSE_ABOVE_DENSITY", 0.0 if dense else 1.0)
    assert_is_the_formula(dictionary, x, None, dead)


def test_candidates_found_in_bfloat16_change_nothing(dictionary, x, monkeypatch):
    monkeypatch.setattr("sae.kernels.features.DENSE_ABOVE_DENSITY", 1.0)
    monkeypatch.setattr("sae.kernels.selection.DENSE_ABOVE_DENSITY", 1.0)
    dictionary.encode_dtype = torch.bfloat16
    assert_is_the_formula(dictionary, x, None, some_dead())


def test_a_transcoder_is_priced_against_its_target(transcoder, x, target):
    assert_is_the_formula(transcoder, x, target, some_dead())


def test_the_loss_is_the_sum_of_its_terms(dictionary, x):
    losses = dictionary.training_pass(x, StepContext(dead=some_dead())).losses
    assert losses["total"].item() == pytest.approx(sum(loss.item() for name, loss in losses.items() if name != "total"))
    assert all(loss.ndim == 0 for loss in losses.values())


def test_a_training_pass_tells_what_it_computed(dictionary, x):
    found = dictionary.training_pass(x)
    features = found.features.to_dense()
    assert isinstance(found.features, SparseFeatures)
    assert torch.equal(found.firings, (features > 0).sum(0))
    assert torch.equal(found.active, (features > 0).any(0))
    assert (found.features.values > 0).all()
    torch.testing.assert_close(found.reconstruction, dictionary.decode(features))
    assert not found.reconstruction.requires_grad
    if dictionary.architecture not in BATCH_WIDE:
        torch.testing.assert_close(features, dictionary.encode(x))


def test_evaluation_gives_the_published_features_and_reconstruction(dictionary, x):
    features, reconstruction = evaluated(copy.deepcopy(dictionary).double(), SCALE * x.double())
    torch.testing.assert_close(dictionary.encode(x).double(), features, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(dictionary(x).double(), reconstruction / SCALE, rtol=1e-5, atol=1e-5)


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


def test_decoder_rows_have_unit_norm_at_the_start_and_after_every_step_where_that_is_promised(dictionary, x):
    optimizer = torch.optim.Adam(dictionary.parameters(), lr=0.1)
    norms = [dictionary.W_dec.norm(dim=1)]
    for _ in range(2):
        optimizer.zero_grad()
        dictionary.training_pass(x).losses["total"].backward()
        dictionary.before_step()
        if dictionary.unit_norm_decoder and "W_dec" in dictionary.feature_axes:
            along = (dictionary.W_dec.grad * dictionary.W_dec).sum(1)
            assert along.abs().max() < 1e-6
        optimizer.step()
        dictionary.after_step()
        norms.append(dictionary.W_dec.norm(dim=1))
    unit = [torch.allclose(norm, torch.ones(D_SAE)) for norm in norms]
    assert unit == [dictionary.unit_norm_decoder] * 3


def test_vector_losses_average_to_the_loss_of_the_batch(dictionary, x):
    each = dictionary.vector_losses(x)
    assert each.shape == (BATCH,)
    assert not each.requires_grad
    if dictionary.architecture in ("relu", "relu_april", "p_annealing"):
        assert each.mean().item() == pytest.approx(dictionary.training_pass(x).losses["total"].item(), rel=1e-6)
    else:
        torch.testing.assert_close(each, (SCALE * (x - dictionary(x).detach())).square().mean(1))


@pytest.mark.parametrize("d_out", [None, D_OUT])
@pytest.mark.parametrize("architecture", UNTIED)
def test_saved_and_loaded_weights_are_the_same_bits(architecture, d_out, x):
    dictionary = trained(architecture, d_out)
    loaded = build_dictionary(dictionary.config, D_IN, d_out)
    loaded.load_state_dict(load(save(dictionary.state_dict())))
    assert torch.equal(loaded(x), dictionary(x))
    assert ("output_scale" in dictionary.state_dict()) == (d_out is not None)
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in dictionary.state_dict().items())


def test_the_same_seed_gives_the_same_start(dictionary):
    starts = []
    for seed in (7, 7, 8):
        dictionary.initialize(torch.ones(D_IN), torch.Generator().manual_seed(seed))
        starts.append({name: weight.clone() for name, weight in dictionary.state_dict().items()})
    assert all(torch.equal(starts[0][name], starts[1][name]) for name in starts[0])
    assert not torch.equal(*(start["M" if "M" in start else "W_dec"] for start in starts[1:]))
    assert torch.equal(dictionary.b_dec, torch.full((D_IN,), float(dictionary.architecture not in BIASES_START_AT_ZERO)))
    assert not any(start[name].any() for start in starts for name in ("b_enc", "b_gate", "b_mag") if name in start)


def test_gradients_reach_the_activations(dictionary, x):
    x = x.requires_grad_()
    dictionary(x).sum().backward()
    other = x.detach().double().requires_grad_()
    (evaluated(copy.deepcopy(dictionary).double(), SCALE * other)[1] / SCALE).sum().backward()
    torch.testing.assert_close(x.grad.double(), other.grad, rtol=1e-4, atol=1e-5)


def whole_gradients(dictionary, x, dead):
    alone = copy.deepcopy(dictionary)
    found = alone.training_pass(x, StepContext(dead=dead))
    found.losses["total"].backward()
    return found, {name: parameter.grad for name, parameter in alone.named_parameters()}, alone


def test_gradients_summed_over_workers_that_share_a_batch_are_those_of_one_worker(dictionary, x):
    found, expected, alone = whole_gradients(dictionary, x, some_dead())
    parts = x.split([30, 50])
    copies = [copy.deepcopy(dictionary) for _ in parts]

    def work(rank, workers):
        result = copies[rank].training_pass(parts[rank], StepContext(dead=some_dead(), workers=workers))
        result.losses["total"].backward()
        return result

    results = run_ranks("data", 2, work)
    for name, gradient in expected.items():
        torch.testing.assert_close(sum(part.get_parameter(name).grad for part in copies), gradient, rtol=1e-4, atol=1e-6, msg=name)
    for term, loss in found.losses.items():
        torch.testing.assert_close(sum(result.losses[term].detach() for result in results), loss.detach())
    torch.testing.assert_close(torch.cat([result.reconstruction for result in results]), found.reconstruction)
    for name, buffer in alone.named_buffers():
        assert all(torch.allclose(dict(part.named_buffers())[name], buffer) for part in copies), name


@pytest.mark.parametrize("architecture", sorted(name for name, kind in ARCHITECTURES.items() if kind.feature_parallel))
def test_gradients_of_workers_that_share_the_features_are_parts_of_those_of_one_worker(architecture, x):
    dictionary = trained(architecture)
    found, expected, _ = whole_gradients(dictionary, x, some_dead())
    width = D_SAE // 2
    parts = []
    for rank in range(2):
        part = build_dictionary(dictionary.config.model_copy(update={"d_sae": width}), D_IN)
        state = {
            name: tensor.narrow(dictionary.feature_axes[name], rank * width, width) if name in dictionary.feature_axes else tensor
            for name, tensor in dictionary.state_dict().items()
        }
        part.load_state_dict(state)
        parts.append(part)

    def work(rank, workers):
        result = parts[rank].training_pass(x, StepContext(dead=some_dead()[rank * width : (rank + 1) * width], workers=workers))
        result.losses["total"].backward()
        return result

    results = run_ranks("features", 2, work)
    for name, gradient in expected.items():
        axis = dictionary.feature_axes.get(name)
        for rank, part in enumerate(parts):
            wanted = gradient if axis is None else gradient.narrow(axis, rank * width, width)
            torch.testing.assert_close(part.get_parameter(name).grad, wanted, rtol=1e-4, atol=1e-6, msg=name)
    for result in results:
        torch.testing.assert_close(result.losses, found.losses)
        torch.testing.assert_close(result.reconstruction, found.reconstruction)


def test_activations_of_another_width_are_refused(dictionary):
    with pytest.raises(WidthError, match=rf"\[3, 5\].*\[\.\.\., {D_IN}\]"):
        dictionary.encode(torch.zeros(3, 5))


def test_activations_may_have_any_leading_axes(dictionary, x):
    features, reconstruction = dictionary.encode(x), dictionary(x)
    for shape in ((len(x) // 2, 2), (1, len(x), 1)):
        shaped = x.reshape(*shape, x.shape[1])
        torch.testing.assert_close(dictionary.encode(shaped), features.reshape(*shape, -1))
        torch.testing.assert_close(dictionary(shaped), reconstruction.reshape(*shape, -1))
        torch.testing.assert_close(dictionary.decode(features.reshape(*shape, -1)), reconstruction.reshape(*shape, -1))
    torch.testing.assert_close(dictionary.encode(x[0]), features[0])
    torch.testing.assert_close(dictionary.decode(features[0]), reconstruction[0])


def test_the_key_architecture_chooses_the_configuration():
    adapter = TypeAdapter(SAEConfig)
    assert adapter.validate_python({"architecture": "topk", "d_sae": 64, "k": 4}) == TopKConfig(d_sae=64, k=4)
    with pytest.raises(ValidationError, match="k"):
        adapter.validate_python({"architecture": "relu", "k": 4})
    with pytest.raises(ConfigError, match="k 9 is more than d_sae 8"):
        TopKConfig.parse({"d_sae": 8, "k": 9})


def test_targets_that_do_not_fit_are_refused(x, target):
    with pytest.raises(WidthError, match="target was given to an autoencoder"):
        trained("relu").training_pass(x, StepContext(target=target))
    with pytest.raises(WidthError, match="no target given to a transcoder"):
        trained("relu", D_OUT).training_pass(x)
    with pytest.raises(WidthError, match=rf"\[3, 5\].*\[{BATCH}, {D_OUT}\]"):
        trained("relu", D_OUT).training_pass(x, StepContext(target=torch.zeros(3, 5)))
    with pytest.raises(ConfigError, match="cannot be a transcoder"):
        build_dictionary(CONFIGS["tied"], D_IN, D_OUT)
