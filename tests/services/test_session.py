"""Where the stages of a command work, and why."""

import os
import urllib.request

import pytest

from sae.errors import InputError
from sae.execution import InProcess
from services import session
from services.cluster.config import ClusterConfig
from services.session import choose_executor, open_session


@pytest.fixture(autouse=True)
def no_address(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.mark.parametrize(
    ("config", "chosen"),
    [
        ({"executor": "local", "address": "ray://somewhere:10001"}, "local"),
        ({"executor": "ray", "num_cpus": 1}, "ray"),
        ({"address": "somewhere:6379", "num_cpus": 1}, "ray"),
        ({"num_cpus": 2}, "ray"),
        ({"num_cpus": 1}, "local"),
    ],
)
def test_an_executor_is_chosen_by_what_is_asked_for_and_what_is_there(config, chosen):
    name, reason = choose_executor(ClusterConfig(**config))
    assert name == chosen
    assert reason


def test_the_environment_names_a_cluster_as_well(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "somewhere:6379")
    assert choose_executor(ClusterConfig(num_cpus=1))[0] == "ray"


def test_without_ray_this_process_works_unless_a_cluster_is_asked_for(monkeypatch):
    monkeypatch.setattr(session.importlib.util, "find_spec", lambda name: None)
    assert choose_executor(ClusterConfig(num_cpus=8)) == ("local", "Ray is not installed")
    for asked in ({"executor": "ray"}, {"address": "somewhere:6379"}):
        with pytest.raises(InputError, match=r"Ray is not installed: pip install 'monosem\[cluster\]'"):
            choose_executor(ClusterConfig(**asked))


def test_a_session_in_this_process_is_watched_as_long_as_it_lasts():
    with open_session(ClusterConfig(executor="local", num_cpus=3)) as opened:
        assert isinstance(opened.executor, InProcess)
        assert opened.executor.monitor is opened.monitor
        assert opened.machine == {"cpus": 3.0, "gpus": 0.0, "nodes": 1}
        opened.monitor.add("monosem_harvest_rows_total", 7)
        opened.monitor.set("monosem_train_step_seconds", 0.02, dictionary="topk")
        opened.monitor.progress("harvest/tokens", 3, 12)
        address = opened.monitor.endpoint()
        served = urllib.request.urlopen(address, timeout=10).read().decode()
        assert opened.monitor.stages() == {"harvest/tokens": (3, 12)}
    assert "monosem_harvest_rows_total 7.0" in served
    assert 'monosem_stage_progress_ratio{stage="harvest/tokens"} 0.25' in served
    assert 'monosem_train_step_seconds_count{dictionary="topk"} 1.0' in served
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(address, timeout=10)


def test_a_session_without_a_port_opens_none():
    with open_session(ClusterConfig(executor="local", metrics_port=None)) as opened:
        assert opened.monitor.endpoint() == ""
    assert os.environ.get("RAY_ADDRESS") is None
