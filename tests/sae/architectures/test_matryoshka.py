"""What is particular to the Matryoshka autoencoder."""

import pytest
import torch

from sae.architectures.config import BatchTopKConfig, MatryoshkaConfig
from sae.architectures.registry import build_dictionary
from sae.errors import ConfigError

X = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))


def test_one_prefix_of_everything_is_batch_topk():
    nested = build_dictionary(MatryoshkaConfig(d_sae=64, k=5, group_fractions=(1.0,)), 16)
    plain = build_dictionary(BatchTopKConfig(d_sae=64, k=5), 16)
    assert nested.training_pass(X).losses["total"].item() == pytest.approx(plain.training_pass(X).losses["total"].item())


def test_a_feature_is_priced_in_its_own_prefix_and_all_longer_ones():
    """With nothing but its first group, every prefix is the same reconstruction."""
    nested = build_dictionary(MatryoshkaConfig(d_sae=64, k=5, group_fractions=(0.25, 0.25, 0.5)), 16)
    with torch.no_grad():
        nested.b_enc[16:] = -100
    found = nested.training_pass(X)
    plain = ((X - found.reconstruction) ** 2).sum() / ((X - X.mean(0)) ** 2).sum()
    assert found.losses["total"].item() == pytest.approx(plain.item())


@pytest.mark.parametrize(("d_sae", "sizes"), [(4096, (128, 256, 512, 1024, 2176)), (100, (3, 6, 12, 25, 54))])
def test_groups_add_up_to_all_features(d_sae, sizes):
    assert MatryoshkaConfig(d_sae=d_sae).group_sizes == sizes
    assert sum(sizes) == d_sae


@pytest.mark.parametrize("fractions", [(0.5, 0.4), (0.5, 0.6), (0.001, 0.999)])
def test_groups_that_do_not_fit_are_refused(fractions):
    with pytest.raises(ConfigError, match="group_fractions"):
        MatryoshkaConfig.parse({"d_sae": 64, "group_fractions": fractions})
