"""A YAML file and dotted overrides become one validated configuration; mistakes are named."""

from pathlib import Path

import pytest

from jobs.config import RunConfig
from jobs.keys import describe_config
from jobs.loading import load_config
from jobs.stages import idle_gpus
from sae.errors import ConfigError, InputError
from sae.storage import Place

READY = sorted((Path(__file__).parents[2] / "jobs" / "configs").glob("*.yaml"))


@pytest.fixture
def run_yaml(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        """
output: runs/test
training:
  batch_size: 256
  dictionaries:
    - name: small
      sae: {architecture: topk, d_sae: 64, k: 4}
    - name: other
      sae: {architecture: relu, d_sae: 64}
"""
    )
    return str(path)


@pytest.mark.parametrize("path", READY, ids=lambda path: path.name)
def test_every_ready_configuration_loads(path):
    assert load_config(str(path), []).output


def test_there_are_ready_configurations():
    assert {"quickstart.yaml"} <= {path.name for path in READY}


def test_overrides_reach_any_depth_and_elements_of_lists_by_name_or_index(run_yaml):
    overrides = ["training.dictionaries.small.sae.k=8", "training.dictionaries.1.sae.l1_coefficient=2e-3", "corpus.train_tokens=1000"]
    config = load_config(run_yaml, overrides)
    small, other = config.training.dictionaries
    assert small.sae.k == 8
    assert other.sae.l1_coefficient == 0.002  # YAML 1.1 reads 2e-3 as text
    assert config.corpus.train_tokens == 1000
    assert config.training.batch_size == 256


def test_a_bare_file_name_is_the_configuration(run_yaml):
    assert load_config(None, [run_yaml, "training.batch_size=8"]).training.batch_size == 8


def test_relative_paths_mean_the_same_place_on_every_worker(run_yaml, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert load_config(run_yaml, []).output == str(tmp_path / "runs" / "test")
    assert load_config(run_yaml, ["output=s3://bucket/run"]).output == "s3://bucket/run"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("corpus.tokens=5", "unknown key 'corpus.tokens'"),
        ("training.dictionaries.small.sae.k=many", "k: .*found 'many'"),
        ("training.dictionaries.tiny.sae.k=1", "no element 'tiny'; there are small, other"),
        ("training.batch_size.x=1", "training.batch_size is 256 and has no keys"),
        ("no-equals-sign", "is not an override"),
        ("corpus.text=[unclosed", "the value is not YAML"),
        ("training.batch_size=0", "greater than"),
        ("training.dictionaries.small.sae.architecture=nonsense", "nonsense"),
    ],
)
def test_a_wrong_override_is_named_in_one_line(run_yaml, override, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(run_yaml, [override])
    assert "\n" not in str(caught.value)


def test_a_key_that_another_architecture_has_is_unknown(run_yaml):
    with pytest.raises(ConfigError, match="k"):
        load_config(run_yaml, ["training.dictionaries.other.sae.k=4"])


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(InputError, match="cannot read the configuration .*nothing.yaml"):
        load_config(str(tmp_path / "nothing.yaml"), [])
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(InputError, match="is not YAML"):
        load_config(str(tmp_path / "broken.yaml"), [])
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(InputError, match="holds a list"):
        load_config(str(tmp_path / "list.yaml"), [])


def test_a_missing_output_says_so():
    with pytest.raises(ConfigError, match="missing key 'output'"):
        load_config(None, [])


def test_the_help_names_every_key_with_default_and_meaning():
    text = "\n".join(describe_config())
    for key in (
        "output = required",
        "corpus.train_tokens = null",
        "training.batch_size = ",
        "pretraining.transformer.d_mlp = 512",
        "cluster.metrics_port = 0",
    ):
        assert key in text
    assert len(list(describe_config())) > len(RunConfig.model_fields)


def test_gpus_that_no_stage_asks_for_are_pointed_out():
    config = load_config(str(READY[0]), [])
    assert idle_gpus(config, 0) is None
    assert "harvest.pool.num_gpus=1 trainer.num_gpus=1" in idle_gpus(config, 2)
    assert idle_gpus(load_config(str(READY[0]), ["trainer.num_gpus=1"]), 2) is None


def test_the_configuration_of_a_run_may_be_used_again(tmp_path):
    """`config.json` is sealed; who edits a copy and uses it is not held to the seal."""
    place = Place(tmp_path)
    place.put_sealed("config.json", load_config(None, ["output=runs/first"]).model_dump(mode="json", exclude={"cluster", "plan"}))
    place.put_json("config.json", place.get_json("config.json") | {"output": "runs/second"})
    assert load_config(f"{tmp_path}/config.json", []).output.endswith("runs/second")
