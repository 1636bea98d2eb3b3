"""The dashboards are what their source makes, and every query can be answered."""

import json
from pathlib import Path

import pytest
import yaml
from queries import dashboards, metrics_of, unknown_labels, unknown_metrics

ROOT = Path(__file__).parents[2]
QUERIES = [
    pytest.param(panel, query, id=f"{page.name}-{panel.title}-{legend}")
    for page in dashboards.DASHBOARDS
    for panel in page.panels
    for legend, query in panel.queries.items()
]


def test_the_files_are_what_the_source_makes(tmp_path):
    dashboards.write(tmp_path)
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    found = {path.name: path.read_text() for path in (ROOT / "helm/dashboards").iterdir()}
    assert made == found, "run `python deploy/dashboards.py`"


@pytest.mark.parametrize(("panel", "query"), QUERIES)
def test_a_query_asks_for_metrics_and_labels_that_exist(panel, query):
    assert metrics_of(query)
    assert unknown_metrics(query) == set()
    if all(name.startswith("monosem_") for name in metrics_of(query)):
        assert unknown_labels(query) == set()


def test_a_query_about_nothing_is_found_out():
    assert unknown_metrics("sum(rate(monosem_tokens_total[1m]))") == {"monosem_tokens_total"}
    assert unknown_labels('sum by (flavour) (monosem_train_loss{term="total"})') == {"flavour"}


def test_every_query_is_promql(promtool, tmp_path):
    rules = [{"record": f"query_{number}", "expr": query.values[1]} for number, query in enumerate(QUERIES)]
    (tmp_path / "queries.yaml").write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    status, said = promtool("check", "rules", tmp_path / "queries.yaml")
    assert status == 0, said
    assert f"{len(QUERIES)} rules found" in said


def test_counters_are_only_shown_as_rates_or_sums_of_money():
    for panel, query in (query.values for query in QUERIES):
        if any(name.startswith("monosem_") and name.endswith("_total") for name in metrics_of(query)) and "_dollars_" not in query:
            assert "rate(" in query or "increase(" in query, panel.title


def test_pages_are_small_enough_to_review():
    for page in dashboards.DASHBOARDS:
        made = json.loads(json.dumps(dashboards.grafana(page)))
        assert len(made["panels"]) <= 15
        places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in made["panels"]}
        assert len(places) == len(made["panels"])
        assert all(panel["datasource"]["uid"] == "${datasource}" for panel in made["panels"])
