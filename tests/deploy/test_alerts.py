"""Alerts fire when they should and not otherwise, speak of metrics that exist, and say where to read on."""

import re
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from queries import metrics_of, unknown_metrics

from services.monitoring.metrics import METRICS, build_metrics

ROOT = Path(__file__).parents[2]
RULES = ROOT / "helm/rules/monosem.yaml"
TESTS = Path(__file__).with_name("alerts.yaml")
ALERTS = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def test_the_rules_are_sound(promtool):
    assert promtool("check", "rules", RULES)[0] == 0


def test_every_alert_fires_when_it_should_and_only_then(promtool):
    status, said = promtool("test", "rules", TESTS)
    assert status == 0, said


def test_the_tests_of_the_rules_can_fail(promtool, tmp_path):
    broken = yaml.safe_load(TESTS.read_text())
    broken["rule_files"] = [str(RULES)]
    broken["tests"][0]["input_series"][0]["values"] = "1x60"
    (tmp_path / "broken.yaml").write_text(yaml.safe_dump(broken))
    assert promtool("test", "rules", tmp_path / "broken.yaml")[0] != 0


def test_every_alert_is_tested():
    tested = {case["alertname"] for test in yaml.safe_load(TESTS.read_text())["tests"] for case in test["alert_rule_test"] if case.get("exp_alerts")}
    assert tested == {alert["alert"] for alert in ALERTS}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_speaks_of_declared_metrics_and_says_what_to_do(alert):
    assert metrics_of(alert["expr"])
    assert unknown_metrics(alert["expr"]) == set()
    assert alert["labels"]["severity"] in ("warning", "critical")
    assert alert["annotations"]["runbook"] == f"docs/alerts.md, {alert['alert']}"


def test_prometheus_takes_every_declared_metric_without_complaint(promtool):
    registry = CollectorRegistry()
    for name, metric in build_metrics(registry).items():
        labels = next(each.labels for each in METRICS if each.name == name)
        child = metric.labels(*labels) if labels else metric
        (child.observe if hasattr(child, "observe") else child.inc)(1)
    text = generate_latest(registry).decode()
    text = re.sub(r"(?m)^.*_created.*\n", "", text)  # prometheus_client's own; Prometheus ignores them
    status, said = promtool("check", "metrics", given=text)
    assert (status, said) == (0, "")


def test_names_and_labels_follow_the_conventions():
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"monosem(_[a-z0-9]+)+", metric.name)
        assert (metric.kind == "counter") == metric.name.endswith("_total"), metric.name
        assert metric.help.endswith("."), metric.name
        assert bool(metric.buckets) == (metric.kind == "histogram"), metric.name
        # Labels that data could fill without bound.
        assert not {"feature", "shard", "document", "path", "url"} & set(metric.labels), metric.name
