"""What a run takes on a cluster, by hand."""

from dataclasses import replace

import pytest

from services.cluster.capacity import DOWNLOAD_BYTES, Amounts, Crew, PlanConfig, Rates, estimate

# 1 million tokens and vectors in 100 shards of 10 MB; a store of 1 GB, all of which is trained on.
AMOUNTS = Amounts(
    tokens=1_000_000, held_out_tokens=100_000, vectors=1_000_000, epochs=1, store_bytes=10**9, train_bytes=10**9, objects=302, shards=100,
    read_tokens=50_000, features=1_000,
)  # fmt: skip
RATES = Rates(
    tokenise=500_000, harvest=1_000, train=2_000, evaluate=500, read=1_000, explain=10, start_seconds=10, train_start_seconds=20,
    train_extra_seconds=5, cluster_start_seconds=3, report_seconds=6,
)  # fmt: skip
CREWS = {"harvest": Crew(10, cpus=4, gpus=1), "train": Crew(2, cpus=8, gpus=1), "evaluate": Crew(4), "interpret": Crew(5)}
FREE = PlanConfig()


def stages(amounts=AMOUNTS, rates=RATES, crews=CREWS, parallel=True, options=FREE):
    return {stage.name: stage for stage in estimate(amounts, rates, crews, parallel, options).stages}


def test_each_stage_takes_its_work_divided_by_its_workers_and_their_start():
    assert {name: stage.seconds for name, stage in stages().items()} == {
        "tokenise": 3 + (1_000_000 + 100_000) / 500_000,
        "harvest": 2 * 10 + 1_000_000 / (10 * 1_000),
        "train": 20 + 5 + 1_000_000 / (2 * 2_000),
        "evaluate": 10 + 100_000 / (4 * 500),
        "interpret": 2 * 10 + (50_000 / 1_000 + 1_000 / 10) / 5,
        "report": 6,
    }


def test_workers_with_dictionaries_of_their_own_do_not_share_the_vectors():
    assert stages(parallel=False)["train"].seconds == 25 + 1_000_000 / 2_000
    assert stages(amounts=replace(AMOUNTS, epochs=3))["train"].seconds == 25 + 3 * 250


def test_more_workers_than_shards_are_no_help():
    crowd = CREWS | {"harvest": Crew(1_000)}
    assert stages(crews=crowd)["harvest"].seconds == 20 + 1_000_000 / (100 * 1_000)


@pytest.mark.parametrize(
    ("options", "stage", "limit", "seconds"),
    [
        ({}, "harvest", "the subject model", 120),
        ({"worker_gbit": 8.0}, "harvest", "the subject model", 120),  # 1 GB/s each: a tenth of a second
        ({"worker_gbit": 0.004}, "harvest", "uploading from each worker", 20 + 8 / 0.04),
        ({"store_gbit": 0.01}, "harvest", "uploading, all of the store's bandwidth", 20 + 800),
        ({"store_gbit": 0.01, "worker_gbit": 0.0001}, "harvest", "uploading from each worker", 20 + 8_000),
        ({}, "train", "training steps", 275),
        ({"store_gbit": 0.02}, "train", "reading, all of the store's bandwidth", 25 + 400),
    ],
)
def test_the_slowest_resource_is_the_limit(options, stage, limit, seconds):
    found = stages(options=PlanConfig(**options))[stage]
    assert (found.limit, found.seconds) == (limit, pytest.approx(seconds))


def test_a_stage_that_is_over_at_once_is_limited_by_its_start():
    assert stages(amounts=replace(AMOUNTS, held_out_tokens=100))["evaluate"].limit == "the start of its workers"


def test_money_is_hours_times_prices_and_storage_and_requests():
    prices = PlanConfig(gpu_hour=2.0, cpu_hour=0.1, gb_month=0.02, months=3, thousand_puts=0.005, thousand_gets=0.0004)
    found = estimate(AMOUNTS, RATES, CREWS, True, prices)
    driver, harvest, train, evaluate, interpret = 5.2 + 6, 120, 275, 60, 50
    assert found.costs.gpus == pytest.approx(2.0 * (harvest * 10 + train * 2) / 3600)
    assert found.costs.cpus == pytest.approx(0.1 * (driver + harvest * 40 + train * 16 + evaluate * 4 + interpret * 5) / 3600)
    assert found.costs.storage == pytest.approx(1.0 * 0.02 * 3)
    assert (found.puts, found.gets) == (302, 100 + -(-(10**9) // DOWNLOAD_BYTES))
    assert found.costs.requests == pytest.approx((302 * 0.005 + found.gets * 0.0004) / 1000)
    assert found.costs.total == pytest.approx(found.costs.gpus + found.costs.cpus + found.costs.storage + found.costs.requests)
    assert found.seconds == driver + harvest + train + evaluate + interpret


def test_everybody_reads_everything_where_each_has_dictionaries_of_his_own():
    alone, shared = (estimate(AMOUNTS, RATES, CREWS, parallel, FREE) for parallel in (False, True))
    assert alone.gets - 100 == pytest.approx(2 * (shared.gets - 100), abs=1)
