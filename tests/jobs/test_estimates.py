"""What cannot fit is refused by arithmetic, with the number, the limit and the key; what could run is not."""

from pathlib import Path

import pytest

from jobs.estimates import Machine, Widths, check_estimates, describe_extent, this_machine
from jobs.loading import load_config
from jobs.stages import WHOLE_WAY
from sae.errors import ConfigError

LAPTOP = Machine(memory_bytes=16 * 2**30, cpus=4, gpus=0, is_local=True)
CLUSTER = Machine(memory_bytes=2 * 2**30, cpus=1, gpus=0, is_local=False)
SMALL = Widths(d_in=512, d_vocab=4096, harvested=512)
CONFIGS = sorted((Path(__file__).parents[2] / "jobs" / "configs").glob("*.yaml"))
EVERY_STAGE = ("pretrain", *WHOLE_WAY, "concepts")


def config(*overrides):
    return load_config(None, ["output=runs/x", *overrides])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training.dictionaries.topk.sae.d_sae=16000000"], r"^training\.dictionaries\.topk\.sae\.d_sae: 16,4.* need at least 244\.\d GiB"),
        (["training.dictionaries.relu.target_l0={l0: 20, pilots: 64}", "training.dictionaries.relu.sae.d_sae=100000"],
         r"^training\.dictionaries\.relu\.target_l0\.pilots: 64 pilot runs"),
        (["training.dictionaries.relu.resampling.num_inputs=10000000"], r"^training\.dictionaries\.relu\.resampling\.num_inputs"),
        (["training.batch_size=4000000"], r"^training\.batch_size: .* GiB of memory, and this machine has 16\.0 GiB\. Lower training\.batch_size$"),
        (["evaluation.sequences_per_forward=65536"], r"^evaluation\.sequences_per_forward: two batches of logits"),
        (["corpus.context_length=1048576"], r"^evaluation\.sequences_per_forward"),
        (["harvest.sequences_per_shard=1000000", "corpus.train_tokens=1000000000000"], r"^harvest\.sequences_per_shard"),
        (["harvest.sequences_per_forward=65536", "harvest.sequences_per_shard=65536", "corpus.train_tokens=1000000000000"],
         r"^harvest\.sequences_per_forward"),
        (["harvest.num_workers=10000", "harvest.pool.num_cpus=0"], r"^harvest\.num_workers: harvest workers"),
        (["harvest.pool.num_cpus=64"], r"^harvest\.pool\.num_cpus: 64 CPUs for each worker, and this machine has 4"),
        (["evaluation.pool.num_gpus=1"], r"^evaluation\.pool\.num_gpus: 1 GPUs for each worker, and this machine has 0"),
        (["trainer.num_workers=1024", "trainer.parallel=data"], r"^trainer\.num_workers: 1024 CPUs"),
        (["trainer.num_gpus=1"], r"^trainer\.num_gpus"),
        (["harvest.pool.labels.zone=a"], r"^harvest\.pool\.labels: nodes of a local cluster have no labels"),
        (["trainer.labels.zone=a"], r"^trainer\.labels"),
        (["cluster.object_store_bytes=1000000000000"], r"^cluster\.object_store_bytes"),
        (["interpretation.controls.fit_vectors=10000000", "corpus.train_tokens=1000000000"], r"^interpretation\.controls\.fit_vectors"),
        (["pretraining.transformer.d_model=16384", "pretraining.transformer.vocab_size=1000000"], r"^pretraining\.transformer"),
        (["pretraining.sequences_per_batch=65536"], r"^pretraining\.sequences_per_batch"),
    ],
)  # fmt: skip
def test_what_cannot_fit_is_refused_with_number_limit_and_key(overrides, message):
    with pytest.raises(ConfigError, match=message):
        check_estimates(config(*overrides), EVERY_STAGE, LAPTOP, SMALL)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_ready_configuration_fits_a_laptop(path):
    if path.name != "pythia-70m.yaml":  # written for a cluster with GPUs
        check_estimates(load_config(str(path), []), EVERY_STAGE, LAPTOP, SMALL)


def test_a_stage_that_does_not_run_is_not_estimated():
    large = config("training.dictionaries.topk.sae.d_sae=16000000", "harvest.pool.labels.zone=a")
    check_estimates(large, ("evaluate",), LAPTOP, SMALL)


def test_a_cluster_somewhere_else_is_bounded_by_the_largest_machine_alone():
    check_estimates(
        config("training.dictionaries.topk.sae.d_sae=16000000", "trainer.num_gpus=8", "harvest.pool.labels.zone=a"), WHOLE_WAY, CLUSTER, SMALL
    )
    with pytest.raises(ConfigError, match="no machine has more than 24.0 TiB"):
        check_estimates(
            config("training.dictionaries.topk.sae.d_sae=16000000"), WHOLE_WAY, CLUSTER, Widths(d_in=200_000, d_vocab=1, harvested=200_000)
        )


def test_an_unknown_model_refuses_nothing_by_its_width():
    check_estimates(config("training.batch_size=1000000"), WHOLE_WAY, LAPTOP, Widths(1, 1, 1))


def test_this_machine_is_as_large_as_its_container(monkeypatch, tmp_path):
    (tmp_path / "limit").write_text("1000000\n")
    (tmp_path / "none").write_text("max\n")
    monkeypatch.setattr("jobs.estimates.CGROUP_LIMITS", (str(tmp_path / "absent"), str(tmp_path / "none"), str(tmp_path / "limit")))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert this_machine(config("cluster.num_cpus=3")) == Machine(1_000_000, 3, this_machine(config()).gpus, is_local=True)
    assert not this_machine(config("cluster.address=ray://head:10001")).is_local


def test_the_extent_of_a_run_is_told_before_it_begins():
    asked = config("corpus.train_tokens=256000", "training.epochs=10", "training.batch_size=1000", "training.dictionaries.relu.target_l0.l0=20")
    assert describe_extent(asked, WHOLE_WAY) == {
        "train_tokens": 256_000, "dictionaries": 2, "epochs": 10, "steps_at_most": 10 * 255, "pilot_runs_at_most": 16,
    }  # fmt: skip
    assert describe_extent(config(), ("harvest",)) == {}
