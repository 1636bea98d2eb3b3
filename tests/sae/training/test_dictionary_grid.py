"""One entry of a configuration that stands for many dictionaries."""

import pytest

from sae.errors import ConfigError
from sae.training.config import TrainingConfig

TOPK = {"sae": {"architecture": "topk"}, "grid": {"sae.k": [16, 32], "sae.d_sae": [64, 128], "seed": [0, 1]}}


def names(entries):
    return [dictionary.name for dictionary in TrainingConfig.parse({"dictionaries": entries}).dictionaries]


def test_a_grid_is_every_combination_of_its_values_under_a_readable_name():
    found = TrainingConfig.parse({"dictionaries": [TOPK]}).dictionaries
    assert [dictionary.name for dictionary in found] == [
        "topk-k16-d64-s0", "topk-k16-d64-s1", "topk-k16-d128-s0", "topk-k16-d128-s1",
        "topk-k32-d64-s0", "topk-k32-d64-s1", "topk-k32-d128-s0", "topk-k32-d128-s1",
    ]  # fmt: skip
    assert [(one.sae.k, one.sae.d_sae, one.seed) for one in found[1:3]] == [(16, 64, 1), (16, 128, 0)]


def test_a_grid_may_run_over_architectures_coefficients_and_rates():
    assert names([{"grid": {"sae.architecture": ["relu", "gated"], "sae.l1_coefficient": [0.004, 1e-2]}}]) == [
        "relu-l1-0.004", "relu-l1-0.01", "gated-l1-0.004", "gated-l1-0.01",
    ]  # fmt: skip
    assert names([{"name": "april", "sae": {"architecture": "relu_april"}, "grid": {"optimizer.learning_rate": [5e-5]}}]) == ["april-lr5e-05"]


def test_entries_without_a_grid_stay_beside_it():
    assert names([{"name": "one", "sae": {"architecture": "relu"}}, {"sae": {"architecture": "relu"}, "grid": {"seed": [3]}}]) == ["one", "relu-s3"]


def test_what_a_grid_makes_is_read_again_as_it_is():
    """The resolved configuration, which lies beside every output, names each dictionary by itself."""
    config = TrainingConfig.parse({"dictionaries": [TOPK]})
    assert TrainingConfig.parse(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([{**TOPK, "grid": {"seed": list(range(300))}}], r"300 combinations are more than 256"),
        ([{**TOPK, "name": name, "grid": {"seed": list(range(200))}} for name in "ab"], r"400 dictionaries are more than 256"),
        ([{**TOPK, "grid": {"seed": [0, 0]}}], r"needs its own name.*topk-s0"),
        ([{**TOPK, "grid": {"sae.k": 16}}], r"lists of values"),
        ([{**TOPK, "grid": {"sae.kk": [16]}}], r"unknown key .*kk"),
        ([{**TOPK, "grid": {"sae.k": [128], "sae.d_sae": [64]}}], r"k 128 is more than d_sae 64"),
        ([{**TOPK, "grid": {"seed.x": [1]}, "seed": 3}], r"'seed', which is 3 and has no keys"),
        ([{"name": "search", "sae": {"architecture": "relu"}}], r"other than state and search"),
        ([{"name": "tied", "sae": {"architecture": "tied"}, "resampling": {}}], r"'tied' has not all: set resampling to null"),
        ([{"name": "topk", "sae": {"architecture": "topk"}, "target_l0": {"l0": 20}}], r"which 'topk' has not: leave it out, or choose k"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(entries, message):
    with pytest.raises(ConfigError, match=message):
        TrainingConfig.parse({"dictionaries": entries})
