"""A real Prometheus reads what a run and the browser show, with the configuration and the rules of the laptop's services."""

import asyncio
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
import yaml
from matplotlib import image
from queries import dashboards

from sae.storage import Place
from services.browser.server import Listening, start
from services.monitoring.board import MetricsBoard
from services.monitoring.metrics import METRICS

ROOT = Path(__file__).parents[2]
SERVER = shutil.which("prometheus", path=str(ROOT / ".tools" / "prometheus")) or shutil.which("prometheus")
pytestmark = pytest.mark.skipif(SERVER is None, reason="no Prometheus on this machine: `make system-tools` unpacks Debian's package")
SCRAPE_SECONDS = 0.05


def free_port():
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


@pytest.fixture(scope="module")
def run_target():
    """The board of a run in the midst of everything: every metric has a value, every label some."""
    board = MetricsBoard()
    labels = {"stage": ["harvest/tokens", "train/vectors"], "outcome": ["committed", "retried"], "dictionary": [f"d{n}" for n in range(32)]}
    for metric in METRICS:
        if metric.name.startswith("monosem_browser_"):
            continue
        names = [dict(zip(metric.labels, each, strict=True)) for each in zip(*(labels.get(label, ["a"]) for label in metric.labels), strict=False)]
        for name in names or [{}]:
            (board.add if metric.kind == "counter" else board.set)(metric.name, 0.5, name)
    return board.address.removeprefix("http://").removesuffix("/metrics")


@pytest.fixture(scope="module")
def browser_target(tmp_path_factory):
    place = Place(tmp_path_factory.mktemp("run"))
    place.put("report.html", b"<!doctype html>")
    loop, servers = asyncio.new_event_loop(), []
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    address = asyncio.run_coroutine_threadsafe(start(place, Listening(port=0), servers), loop).result(20)
    urllib.request.urlopen(address, timeout=20).close()
    yield urllib.parse.urlparse(address).netloc
    for server in servers:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(20)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(20)
    loop.close()


@pytest.fixture(scope="module")
def ask(tmp_path_factory, run_target, browser_target):
    """Asks a running Prometheus; it has scraped both targets a few times."""
    directory, port = tmp_path_factory.mktemp("prometheus"), free_port()
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"}
    targets = {"run": run_target, "browser": browser_target}
    config["scrape_configs"] = [
        job | {"static_configs": [{"targets": [targets[job["job_name"]]]}]} for job in config["scrape_configs"] if job["job_name"] in targets
    ]
    shutil.copytree(ROOT / "helm/rules", directory / "rules")
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
    command = [SERVER, "--config.file=prometheus.yml", "--storage.tsdb.path=data", f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    with subprocess.Popen(command, cwd=directory, stderr=subprocess.DEVNULL) as server:

        def get(path, **parameters):
            url = f"http://127.0.0.1:{port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
            with urllib.request.urlopen(url, timeout=10) as response:
                return json.load(response)["data"]

        try:
            get.prometheus = f"http://127.0.0.1:{port}"
            wait_until(lambda: len(get("query", query="count_over_time(up[1m]) >= 3")["result"]) == 2)
            yield get
        finally:
            server.terminate()
            server.wait(20)


def wait_until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if condition():
                return
        except (urllib.error.URLError, ConnectionError):
            pass
        time.sleep(0.1)
    raise AssertionError("Prometheus has not scraped both targets in time")


def test_both_targets_are_up_and_quickly_read(ask):
    assert {each["metric"]["job"]: each["value"][1] for each in ask("query", query="up")["result"]} == {"run": "1", "browser": "1"}
    # The quickest of several: what the machine does besides is not ours.
    for each in ask("query", query="min_over_time(scrape_duration_seconds[1m])")["result"]:
        assert float(each["value"][1]) <= SCRAPE_SECONDS, each["metric"]


def test_every_declared_metric_of_a_run_arrives(ask):
    found = set(ask("label/__name__/values"))
    expected = {
        metric.name + ("_count" if metric.kind == "histogram" else "") for metric in METRICS if not metric.name.startswith("monosem_browser_")
    }
    assert expected - found == set()
    assert "monosem_browser_requests_total" in found


@pytest.mark.parametrize("page", ["pipeline", "training"])
def test_every_query_of_the_dashboards_is_answered(ask, page):
    [found] = [each for each in dashboards.DASHBOARDS if each.name == page]
    for panel in found.panels:
        for query in panel.queries.values():
            assert ask("query", query=query)["result"], f"{panel.title}: {query} finds nothing"


def test_every_dashboard_can_be_seen_as_a_picture(ask, tmp_path):
    command = [sys.executable, ROOT / "deploy/dashboard_pictures.py", ask.prometheus, tmp_path, "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert {path.name for path in tmp_path.iterdir()} == {"pipeline.png", "training.png", "cluster.png"}
    height, width, _ = image.imread(tmp_path / "pipeline.png").shape
    assert (width, height) == (1350, 1305), "fifteen panels, three in a row"


def test_the_alerts_are_loaded_and_healthy(ask):
    rules = [rule for group in ask("rules")["groups"] for rule in group["rules"]]
    assert len(rules) == 7
    assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
    assert not [rule["name"] for rule in rules if rule.get("lastError")]
