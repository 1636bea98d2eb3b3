"""A plan counts what a run will write, takes rates from `make bench`, and says what it cannot know."""

import json
import os
import sys
from argparse import Namespace
from queue import SimpleQueue
from types import SimpleNamespace

import pytest

from jobs import planning, rates
from jobs.bench_rates import BENCH_BATCH, rates_of_bench
from jobs.config import RunConfig
from jobs.loading import load_config
from jobs.memory import memory_of_stages
from jobs.plan import bounded_by_text, count_amounts, crews, describe_means, describe_time
from sae.errors import ConfigError, FailureError, InputError
from services.cluster.capacity import PlanConfig, Rates, estimate

MLP, RESID = "blocks.0.mlp.hook_post", "blocks.0.hook_resid_post"
WIDTHS = {MLP: 512, RESID: 128}


class Subject:
    """A subject of twice the embedded model's weights."""

    num_parameters, d_vocab = 2_000_000, 4096


def run_config(**changes):
    values = {
        "output": "nowhere",
        "corpus": {"context_length": 256, "train_tokens": 1_000_000, "held_out_tokens": 100_000},
        "harvest": {"hookpoints": [MLP, RESID], "sequences_per_shard": 100, "num_workers": 8, "pool": {"num_cpus": 2}},
        "training": {"dictionaries": [{"name": "one", "sae": {"architecture": "topk", "d_sae": 4096, "k": 20}}]},
        "interpretation": {
            "max_features": 1000,
            "controls": {"kinds": ["pca"], "num_features": 10},
            "explanation_sequences": 100,
            "scoring_sequences": 50,
        },
    }
    return RunConfig.parse(values | changes)


def bench_lines(tmp_path, gpu=None, names=("harvest", "train_step_topk")):
    values = {"harvest": 80_000.0, "train_step_topk": 200.0}
    lines = [{"benchmark": name, "value": values[name], "machine": {"gpu": gpu}} for name in names] + [{"benchmark": "other", "skipped": "no GPU"}]
    path = tmp_path / "rates.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return str(path)


def test_amounts_are_those_of_the_configuration():
    found = count_amounts(run_config(), WIDTHS)
    sequences = -(-1_000_000 // 256)
    assert (found.tokens, found.vectors, found.shards) == (sequences * 256, sequences * 255, 40)
    rows = sequences * 255
    assert found.train_bytes == rows * (512 * 2 + 16)
    assert found.store_bytes == rows * (512 * 2 + 16) + rows * (128 * 2 + 16) + sequences * (4 * 256 + 8)
    assert found.objects == 40 * (2 + 2 + 1) + 2
    assert found.read_tokens == 150 * 256
    assert found.features == 1000 + 512 + 10


def test_text_without_an_end_cannot_be_planned():
    with pytest.raises(ConfigError, match="set both so that a plan can be made"):
        count_amounts(run_config(corpus={"train_tokens": None}), WIDTHS)


def test_lines_of_make_bench_are_scaled_to_the_model_and_the_dictionaries(tmp_path):
    found = rates_of_bench(bench_lines(tmp_path), run_config(), Subject(), WIDTHS, embedded_parameters=1_000_000)
    assert found.harvest == 80_000 / 2 * 2 / 2  # of two threads, for a worker of two, at half the speed
    assert found.train == pytest.approx(BENCH_BATCH / 0.2)
    wide = run_config(training={"dictionaries": [{"name": "one", "sae": {"architecture": "topk", "d_sae": 16_384, "k": 20}}]})
    assert rates_of_bench(bench_lines(tmp_path), wide, Subject(), WIDTHS, 1_000_000).train == pytest.approx(BENCH_BATCH / 0.8)
    assert rates_of_bench(bench_lines(tmp_path, gpu="H200"), run_config(), Subject(), WIDTHS, 1_000_000).harvest == 80_000 / 2


@pytest.mark.parametrize(
    ("text", "message"),
    [("{}", "lacks the benchmarks"), ("[1, 2]", "lacks the benchmarks"), ("not JSON", "is not the output"), ("", "lacks the benchmarks")],
)
def test_other_files_are_no_rates(tmp_path, text, message):
    path = tmp_path / "rates.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        rates_of_bench(str(path), run_config(), Subject(), WIDTHS, 1)
    with pytest.raises(InputError, match="cannot read the rates"):
        rates_of_bench(str(tmp_path / "none"), run_config(), Subject(), WIDTHS, 1)


def test_a_plan_names_the_limit_of_every_stage_and_the_money():
    config = run_config(plan={"cpu_hour": 0.05, "gb_month": 0.02, "store_gbit": 0.001})
    rates = Rates(1e6, 1e5, 1e5, 1e3, 1e3, 10, 5, 10)
    found = estimate(count_amounts(config, WIDTHS), rates, crews(config), False, config.plan)
    text = "\n".join([*describe_time(found.stages, "by hand"), *describe_means(config, found, memory_of_stages(config, WIDTHS, Subject()))])
    assert "8 workers; limited by uploading, all of the store's bandwidth" in text
    assert "in all" in text
    assert "storage 0.03" in text  # 1.31 GB for a month
    assert config.plan == PlanConfig(cpu_hour=0.05, gb_month=0.02, store_gbit=0.001)


def test_memory_is_that_of_the_largest_stage_and_counts_logits():
    def memory(vocabulary, **evaluation):
        model = SimpleNamespace(num_parameters=10**6, d_vocab=vocabulary)
        return memory_of_stages(run_config(evaluation=evaluation), WIDTHS, model)

    small, large = memory(1000), memory(262_144)
    assert large["harvest"] == small["harvest"]
    workers = run_config().evaluation.num_workers
    assert large["evaluate"] - small["evaluate"] == workers * 4 * (8 * 256) * (262_144 - 1000) * 4, "four batches of 8 sequences in float32"
    assert memory(262_144, sequences_per_forward=2)["evaluate"] < large["evaluate"] / 2
    config = run_config()
    found = estimate(count_amounts(config, WIDTHS), Rates(1e6, 1e5, 1e5, 1e3, 1e3, 10, 5, 10), crews(config), False, config.plan)
    [line] = [each for each in describe_means(config, found, large) if "memory" in each]
    assert f"about {large['evaluate'] / 2**30:.1f} GiB in evaluate (harvest " in line


def test_memory_is_about_what_was_measured():
    """Of the quickstart at 200,000 tokens on two cores: 2,463 MiB in harvest, 3,229 in train, 2,681 in evaluate, 2,483 in interpret."""
    config = load_config("jobs/configs/quickstart.yaml", [])
    found = memory_of_stages(config, {config.hookpoint: 512}, SimpleNamespace(num_parameters=1_279_872, d_vocab=4096))
    measured = {"harvest": 2463, "train": 3229, "evaluate": 2681, "interpret": 2483}
    assert all(bytes_measured * 2**20 <= found[stage] <= 1.6 * bytes_measured * 2**20 for stage, bytes_measured in measured.items())


@pytest.mark.parametrize(
    "line",
    [
        '{"benchmark": "harvest", "value": true, "machine": {"gpu": null}}',
        '{"benchmark": "harvest", "value": "fast", "machine": {"gpu": null}}',
        '{"benchmark": "harvest", "value": -1, "machine": {"gpu": null}}',
        '{"benchmark": "harvest", "value": 1}',
        '{"benchmark": "harvest", "value": 1, "machine": "laptop"}',
        '{"benchmark": ["harvest"], "value": 1}',
        '{"benchmark": "harvest", "value": NaN, "machine": {"gpu": null}}',
        "[" * 10_000,
    ],
)
def test_damaged_rates_are_refused_in_one_line(tmp_path, line):
    path = tmp_path / "rates.jsonl"
    path.write_text(line)
    with pytest.raises(InputError, match=r"rates\.jsonl") as caught:
        rates_of_bench(str(path), run_config(), Subject(), WIDTHS, 1)
    assert str(caught.value).isprintable()


def test_rates_are_read_from_regular_files_alone(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, "/dev/zero"):
        with pytest.raises(InputError, match="no such file"):
            rates_of_bench(str(path), run_config(), Subject(), WIDTHS, 1)


class FourLetters:
    """A tokenizer of four characters a token."""

    def encode(self, texts):
        return [[0] * (len(text) // 4) for text in texts]


class Words:
    """A tokenizer of one word a token."""

    def encode(self, texts):
        return [[0] * len(text.split()) for text in texts]


def test_a_plan_counts_no_more_tokens_than_local_text_has(tmp_path):
    (tmp_path / "text.txt").write_text("words " * 10_000)
    asked = {"context_length": 256, "train_tokens": 1_000_000, "held_out_tokens": 100_000, "held_out_fraction": 0.1}
    config, remark = bounded_by_text(run_config(corpus=asked | {"text": str(tmp_path)}), FourLetters())
    assert (config.corpus.train_tokens, config.corpus.held_out_tokens) == (13_501, 1500)
    assert "about 15,001 tokens" in remark[0]
    assert count_amounts(config, WIDTHS).tokens == 53 * 256
    assert bounded_by_text(run_config(corpus=asked), FourLetters()) == (run_config(corpus=asked), [])


def test_tokens_of_local_text_are_counted_by_its_own_tokenizer(tmp_path):
    """At a typical 4 bytes a token, text of short words seemed to have half of the tokens that it has."""
    (tmp_path / "text.txt").write_text("ab " * 100_000)
    asked = run_config(corpus={"context_length": 256, "train_tokens": 90_000, "held_out_tokens": 5000, "text": str(tmp_path)})
    assert bounded_by_text(asked, Words()) == (asked, [])
    config, _ = bounded_by_text(asked, FourLetters())
    assert config.corpus.train_tokens < 75_000


def test_the_plan_says_at_once_that_it_works(monkeypatch, capsys):
    """Before the imports of torch, which take seconds."""
    monkeypatch.setitem(sys.modules, "jobs.plan", SimpleNamespace(print_plan=lambda *given: print(given[:3], capsys.readouterr().err)))
    planning.plan_verb(Namespace(config="run.yaml", overrides=[], rates=None))
    assert capsys.readouterr().out == "('run.yaml', [], None) plan: reading the configuration and loading the model …\n\n"


class Worker:
    """A measuring process that never ends."""

    exitcode, terminated = None, False

    def is_alive(self):
        return not self.terminated

    def join(self, seconds):
        assert seconds < 1

    def terminate(self):
        self.terminated = True


def test_measuring_says_what_it_does_and_ends_in_time(monkeypatch):
    monkeypatch.setattr(rates, "MOST_SECONDS", 0.05)
    workers, steps, told = [Worker(), Worker()], SimpleQueue(), []
    steps.put("harvest")
    with pytest.raises(FailureError, match=r"took more than 0 s \(at harvest\): it is busy"):
        rates._wait(workers, steps, told.append)
    assert told == ["measuring harvest"]
    assert all(worker.terminated for worker in workers)
