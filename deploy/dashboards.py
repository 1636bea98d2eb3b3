"""The Grafana dashboards, from one short description: `python deploy/dashboards.py` writes helm/dashboards/*.json.

A test compares the files with what this makes, and every query with the metrics that `services.monitoring.metrics` declares and the few of Ray's
own named here.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TARGET = Path(__file__).parents[1] / "helm" / "dashboards"

# Ray 2.60's own metrics that the cluster page uses, as its metrics port names them; the GPU ones exist on GPU nodes only.
RAY_METRICS = frozenset(
    {
        "ray_actors", "ray_cluster_active_nodes", "ray_cluster_pending_nodes", "ray_node_cpu_utilization", "ray_node_gpus_utilization",
        "ray_node_gram_used", "ray_node_mem_total", "ray_node_mem_used", "ray_node_network_receive_speed", "ray_node_network_send_speed",
        "ray_object_store_memory", "ray_resources", "ray_tasks",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Panel:
    """One diagram.

    Attributes:
        title: what it shows.
        unit: Grafana's name of the unit.
        queries: legend and PromQL.
        kind: `timeseries`, or `stat` for one large number.
        says: what to read from it.
    """

    title: str
    unit: str
    queries: dict[str, str]
    kind: str = "timeseries"
    says: str = ""


@dataclass(frozen=True)
class Dashboard:
    """One page of diagrams, three in a row."""

    name: str
    title: str
    panels: list[Panel] = field(default_factory=list)


DASHBOARDS = (
    Dashboard(
        "pipeline",
        "Monosem: pipeline",
        [
            Panel(
                "Progress", "percentunit", {"{{stage}}": "max by (stage) (monosem_stage_progress_ratio)"}, says="Share of each stage that is done."
            ),
            Panel(
                "Tokens harvested",
                "short",
                {"tokens/s": "sum(rate(monosem_harvest_tokens_total[2m]))"},
                says="Zero while not done: MonosemHarvestStalled.",
            ),
            Panel("Written to the store", "Bps", {"shards": "sum(rate(monosem_store_bytes_total[2m]))"}),
            Panel("Shards to come", "none", {"shards": "sum(monosem_harvest_queue_shards)"}),
            Panel(
                "Store put, 95th percentile",
                "s",
                {"put": "histogram_quantile(0.95, sum by (le) (rate(monosem_store_put_seconds_bucket[5m])))"},
                says="One shard object, retries included.",
            ),
            Panel("Shards", "short", {"{{outcome}}": "sum by (outcome) (rate(monosem_shards_total[5m]))"}, says="Per second, by outcome."),
            Panel(
                "Failures",
                "short",
                {
                    "worker restarts": "sum(increase(monosem_worker_restarts_total[5m]))",
                    "store errors": "sum(increase(monosem_store_errors_total[5m]))",
                },
                says="Within five minutes. Spot workers that go are normal; store errors are not.",
            ),
            Panel("Time of finished stages", "s", {"{{stage}}": "max by (stage) (monosem_stage_seconds)"}, "stat"),
            Panel("Held-out tokens evaluated", "short", {"tokens/s": "sum(rate(monosem_evaluation_tokens_total[2m]))"}),
            Panel(
                "Loss recovered",
                "percentunit",
                {"{{dictionary}} ({{ablation}})": "max by (dictionary, ablation) (monosem_evaluation_loss_recovered)"},
                "stat",
            ),
            Panel(
                "Features explained", "short", {"{{source}}": "sum by (source) (rate(monosem_interpretation_features_total[2m]))"}, says="Per second."
            ),
            Panel(
                "Explanation score", "none", {"{{source}}": "max by (source) (monosem_interpretation_score)"}, "stat", "Median Spearman correlation."
            ),
            Panel(
                "Language model",
                "currencyUSD",
                {"spent": "sum(monosem_llm_cost_dollars_total)", "budget": "sum(monosem_llm_budget_dollars)"},
                says="MonosemLanguageModelBudget at 80 %.",
            ),
            Panel("Browser requests", "reqps", {"{{route}} {{status}}": "sum by (route, status) (rate(monosem_browser_requests_total[2m]))"}),
            Panel(
                "Browser, 95th percentile",
                "s",
                {"{{route}}": "histogram_quantile(0.95, sum by (route, le) (rate(monosem_browser_request_seconds_bucket[5m])))"},
            ),
        ],
    ),
    Dashboard(
        "training",
        "Monosem: training",
        [
            Panel("Loss", "none", {"{{dictionary}} {{term}}": "monosem_train_loss"}, says="Every term as weighted; `total` is their sum."),
            Panel("L0", "none", {"{{dictionary}}": "monosem_train_l0"}, says="Features that fire per token."),
            Panel("FVU", "none", {"{{dictionary}}": "monosem_train_fvu"}, says="1 is as bad as predicting the mean."),
            Panel(
                "Dead features",
                "percentunit",
                {"{{dictionary}}": "monosem_train_dead_fraction"},
                says="MonosemDeadFeaturesRising above 20 % and growing.",
            ),
            Panel("Resampled", "short", {"{{dictionary}}": "increase(monosem_train_resampled_total[5m])"}, says="Within five minutes."),
            Panel(
                "Waits of a step",
                "s",
                {"{{dictionary}} read": "monosem_train_read_seconds", "{{dictionary}} sync": "monosem_train_sync_seconds"},
                says="The rest of a step is computation.",
            ),
            Panel("Learning rate", "none", {"{{dictionary}}": "monosem_train_learning_rate"}),
            Panel("Speed", "short", {"{{dictionary}}": "rate(monosem_train_vectors_total[2m])"}, says="Activations per second."),
            Panel(
                "Step, median",
                "s",
                {"{{dictionary}}": "histogram_quantile(0.5, sum by (dictionary, le) (rate(monosem_train_step_seconds_bucket[5m])))"},
            ),
            Panel(
                "Step, 99th percentile",
                "s",
                {"{{dictionary}}": "histogram_quantile(0.99, sum by (dictionary, le) (rate(monosem_train_step_seconds_bucket[5m])))"},
            ),
        ],
    ),
    Dashboard(
        "cluster",
        "Monosem: cluster",
        [
            Panel(
                "Nodes",
                "none",
                {"{{node_type}} active": "max by (node_type) (ray_cluster_active_nodes)", "pending": "sum(ray_cluster_pending_nodes)"},
            ),
            Panel("CPU", "percent", {"{{instance}}": "avg by (instance) (ray_node_cpu_utilization)"}),
            Panel("GPU", "percent", {"{{instance}} {{GpuIndex}}": "avg by (instance, GpuIndex) (ray_node_gpus_utilization)"}),
            Panel("Memory", "percentunit", {"{{instance}}": "sum by (instance) (ray_node_mem_used) / sum by (instance) (ray_node_mem_total)"}),
            Panel("GPU memory", "decmbytes", {"{{instance}} {{GpuIndex}}": "max by (instance, GpuIndex) (ray_node_gram_used)"}),
            Panel("Object store", "bytes", {"{{Location}}": "sum by (Location) (ray_object_store_memory)"}, says="SPILLED should stay at zero."),
            Panel(
                "Network",
                "Bps",
                {"received": "sum(ray_node_network_receive_speed)", "sent": "sum(ray_node_network_send_speed)"},
                says="Over all nodes.",
            ),
            Panel("Actors", "none", {"{{State}}": "sum by (State) (ray_actors)"}, says="PENDING_CREATION for long: no node fits, see groups.*."),
            Panel("Tasks", "none", {"{{State}}": 'sum by (State) (ray_tasks{State!="FINISHED"})'}),
            Panel("CPUs and GPUs taken", "none", {"{{Name}}": 'sum by (Name) (ray_resources{State="USED",Name=~"CPU|GPU"})'}),
        ],
    ),
)


def grafana(dashboard: Dashboard) -> dict[str, Any]:
    """A dashboard as Grafana imports it."""
    source = {"type": "prometheus", "uid": "${datasource}"}
    panels = [
        {
            "id": number + 1,
            "type": panel.kind,
            "title": panel.title,
            "description": panel.says,
            "datasource": source,
            "gridPos": {"h": 8, "w": 8, "x": 8 * (number % 3), "y": 8 * (number // 3)},
            "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
            "targets": [
                {"refId": chr(ord("A") + index), "datasource": source, "expr": query, "legendFormat": legend}
                for index, (legend, query) in enumerate(panel.queries.items())
            ],
        }
        for number, panel in enumerate(dashboard.panels)
    ]
    variable = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    return {
        "uid": f"monosem-{dashboard.name}",
        "title": dashboard.title,
        "tags": ["monosem"],
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [variable]},
        "panels": panels,
    }


def write(target: Path = TARGET) -> None:
    """Write every dashboard as a file."""
    target.mkdir(parents=True, exist_ok=True)
    for dashboard in DASHBOARDS:
        (target / f"{dashboard.name}.json").write_text(json.dumps(grafana(dashboard), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    write()
