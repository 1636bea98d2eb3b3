"""What workers send each other of their gradients, and how gradients are shortened."""

import torch

from sae.architectures.config import TopKConfig
from sae.architectures.registry import build_dictionary
from sae.parallel.workers import ALONE, Workers
from sae.training.sharding import clip_gradients, sum_gradients

D_IN, D_SAE = 8, 64


class Twin(Workers):
    """One of two workers whose other has the same rows: every sum is twice what it gives."""

    data_size = 2

    def __init__(self):
        super().__init__()
        self.sent = []

    def sum_rows(self, values):
        self.sent.append(tuple(values.shape))
        return 2 * values


def with_gradients(num_vectors):
    dictionary = build_dictionary(TopKConfig(d_sae=D_SAE, k=2, aux_coefficient=0.0), D_IN)
    dictionary.initialize(torch.zeros(D_IN), torch.Generator().manual_seed(0))
    x = torch.randn(num_vectors, D_IN, generator=torch.Generator().manual_seed(1))
    found = dictionary.training_pass(x)
    found.losses["total"].backward()
    return dictionary, int(found.active.sum())


def test_only_features_that_have_a_gradient_are_sent():
    dictionary, num_active = with_gradients(num_vectors=5)
    assert 2 <= num_active <= 10
    before = {name: parameter.grad.clone() for name, parameter in dictionary.named_parameters()}
    workers = Twin()
    sum_gradients(dictionary, workers)
    assert sorted(workers.sent[1:]) == sorted([(D_IN, num_active), (num_active,), (num_active, D_IN), (D_IN,)])
    for name, parameter in dictionary.named_parameters():
        assert torch.equal(parameter.grad, 2 * before[name]), name


def test_where_every_feature_has_one_all_is_sent_as_it_is():
    dictionary, num_active = with_gradients(num_vectors=2000)
    assert num_active == D_SAE
    workers = Twin()
    sum_gradients(dictionary, workers)
    assert sorted(workers.sent[1:]) == sorted([(D_IN, D_SAE), (D_SAE,), (D_SAE, D_IN), (D_IN,)])


def test_alone_nothing_is_sent_or_changed():
    dictionary, _ = with_gradients(num_vectors=5)
    before = dictionary.W_dec.grad.clone()
    sum_gradients(dictionary, ALONE)
    assert torch.equal(dictionary.W_dec.grad, before)


def test_gradients_are_shortened_as_torch_does():
    one, _ = with_gradients(num_vectors=50)
    other, _ = with_gradients(num_vectors=50)
    clip_gradients(one, 0.01, ALONE)
    torch.nn.utils.clip_grad_norm_(other.parameters(), 0.01)
    for (name, parameter), expected in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected.grad, msg=name)


def test_short_gradients_stay_as_they_are():
    dictionary, _ = with_gradients(num_vectors=50)
    before = dictionary.W_enc.grad.clone()
    clip_gradients(dictionary, 1e6, ALONE)
    assert torch.equal(dictionary.W_enc.grad, before)
