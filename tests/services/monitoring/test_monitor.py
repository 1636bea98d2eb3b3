"""A run can be watched: one scrape target, fed by all workers, with declared metrics only."""

import logging
import re
import urllib.request

import pytest
import ray
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from services.monitoring.metrics import METRICS, build_metrics
from services.monitoring.monitor import RunMonitor
from services.monitoring.progress import ProgressDisplay


@pytest.fixture
def monitor(ray_cluster):
    monitor = RunMonitor.start()
    yield monitor
    monitor.stop()


def scrape(monitor):
    text = urllib.request.urlopen(monitor.endpoint(), timeout=10).read().decode()
    return {sample.name: sample for family in text_string_to_metric_families(text) for sample in family.samples}


def test_every_metric_has_a_conventional_name_and_says_what_it_is():
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"monosem_[a-z0-9_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert metric.help.endswith(".")
    assert set(build_metrics(CollectorRegistry())) == {metric.name for metric in METRICS}


@pytest.mark.ray
def test_what_workers_report_is_scraped_from_one_address_on_loopback(monitor):
    monitor.add("monosem_harvest_tokens_total", 100)
    monitor.add("monosem_harvest_tokens_total", 28)
    monitor.set("monosem_train_loss", 0.25, dictionary="relu", term="total")
    monitor.set("monosem_train_step_seconds", 0.03, dictionary="relu")
    assert monitor.endpoint().startswith("http://127.0.0.1:")
    samples = scrape(monitor)
    assert samples["monosem_harvest_tokens_total"].value == 128
    assert samples["monosem_train_loss"].labels == {"dictionary": "relu", "term": "total"}
    assert samples["monosem_train_step_seconds_count"].value == 1


@pytest.mark.ray
def test_a_worker_process_reports_through_the_monitor_it_is_given(monitor):
    def work(monitor):
        monitor.add("monosem_harvest_rows_total", 7)
        return monitor.stages()

    ray.get(ray.remote(num_cpus=0)(work).remote(monitor), timeout=60)
    assert scrape(monitor)["monosem_harvest_rows_total"].value == 7


@pytest.mark.ray
def test_on_a_terminal_every_stage_has_a_bar_with_its_unit(monitor, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with ProgressDisplay(monitor):
        monitor.progress("harvest/tokens", 500, 1000)
        monitor.progress("harvest/tokens", 1000, 1000)
        monitor.stages()
    shown = capsys.readouterr().err
    assert "harvest" in shown
    assert "tokens/s" in shown
    assert "100%" in shown


@pytest.mark.ray
def test_in_a_jobs_log_progress_is_a_few_whole_lines(monitor, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("monosem"), "propagate", True)
    caplog.set_level("INFO", logger="monosem")
    with ProgressDisplay(monitor):
        for done in range(0, 1001, 100):
            monitor.progress("harvest/tokens", done, 1000)
            monitor.stages()
    lines = [record.getMessage() for record in caplog.records if "event=progress" in record.getMessage()]
    assert 1 <= len(lines) <= 2
    assert "stage=harvest done=1000 total=1000 unit=tokens" in lines[-1]


@pytest.mark.ray
def test_a_metric_nobody_declared_does_not_stop_the_board(monitor):
    monitor.add("monosem_invented_total", 1)
    monitor.add("monosem_harvest_tokens_total", 1)
    assert scrape(monitor)["monosem_harvest_tokens_total"].value == 1
