"""The laptop's services fit together: ports, paths, commands and pins."""

import re
import shutil
from pathlib import Path

import pytest
import yaml

from jobs.parsing import build_parser

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
PROMETHEUS = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
every_service = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)


def mounts(service):
    return {parts[1]: parts[0] for parts in (volume.split(":") for volume in service.get("volumes", []))}


@every_service
def test_an_image_is_pinned(service):
    ours = service["image"].startswith("monosem")  # built here, and so without a digest before it is
    assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+" + ("" if ours else "@sha256:[0-9a-f]{64}"), service["image"])


@every_service
def test_nothing_listens_beyond_loopback(service):
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    if service.get("network_mode") == "host":
        said = [*service.get("command", []), *(f"{key}={value}" for key, value in service.get("environment", {}).items())]
        assert any("127.0.0.1" in word for word in said)


@every_service
def test_what_is_mounted_exists_and_is_read_only(service):
    for volume in service.get("volumes", []):
        source, _, *rest = volume.split(":")
        if source.startswith("."):
            assert (DEPLOY / source).exists(), source
            assert rest == ["ro"]
        else:
            assert source in COMPOSE["volumes"]


@every_service
def test_dependencies_exist(service):
    assert set(service.get("depends_on", [])) <= set(SERVICES)


def test_keys_come_from_the_environment_and_nowhere_else():
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if re.search("KEY|SECRET|PASSWORD|TOKEN", name):
                assert re.fullmatch(r"\$\{AWS_(ACCESS_KEY_ID|SECRET_ACCESS_KEY):\?.*\}", value)


def test_the_browser_is_built_from_its_dockerfile_and_told_what_it_understands():
    browser = SERVICES["browser"]
    assert (DEPLOY / browser["build"]["context"] / browser["build"]["dockerfile"]).resolve() == DEPLOY / "Dockerfile.browser"
    options = build_parser().parse_args([re.sub(r"\$\{\w+:-(.*)\}", r"\1", word) for word in browser["command"]])
    assert (options.verb, options.url, options.host, options.wait) == ("serve", "s3://monosem/quickstart", "0.0.0.0", True)
    assert browser["ports"] == [f"127.0.0.1:8080:{options.port}", f"127.0.0.1:9465:{options.metrics_port}"]
    assert browser["environment"]["AWS_ENDPOINT_URL"] == "http://store:7070"


def test_prometheus_finds_the_browser_and_a_run():
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in PROMETHEUS["scrape_configs"]}
    assert targets["run"] == ["127.0.0.1:9464"]
    assert targets["browser"] == ["127.0.0.1:9465"]


def test_prometheus_takes_its_configuration_and_the_alerts(promtool, tmp_path):
    # Laid out as the service mounts them.
    for target, source in mounts(SERVICES["prometheus"]).items():
        if target.startswith("/etc/prometheus/"):
            there = tmp_path / target.removeprefix("/etc/prometheus/")
            (shutil.copytree if (DEPLOY / source).is_dir() else shutil.copy)(DEPLOY / source, there)
    status, said = promtool("check", "config", tmp_path / "prometheus.yml")
    assert status == 0, said
    assert "7 rules found" in said


def test_grafana_shows_the_generated_dashboards():
    grafana = mounts(SERVICES["grafana"])
    [provider] = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/monosem.yaml").read_text())["providers"]
    assert (DEPLOY / grafana[provider["options"]["path"]]).resolve() == ROOT / "helm/dashboards"
    [source] = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    listens = next(word for word in SERVICES["prometheus"]["command"] if "listen-address" in word)
    assert source["url"] == f"http://{listens.partition('=')[2]}"
