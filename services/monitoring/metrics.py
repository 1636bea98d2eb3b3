"""Every metric that Monosem exports: name, kind, unit, help and labels. Nothing else declares one.

Names follow Prometheus' conventions: base units, `_total` on counters. Labels are bounded by configuration (dictionaries, loss terms,
outcomes), never by data (features, shards, documents).
"""

from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


@dataclass(frozen=True)
class Metric:
    """One exported metric."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


METRICS: tuple[Metric, ...] = (
    Metric("monosem_stage_progress_ratio", "gauge", "Share of a stage that is done, 0 to 1.", ("stage",)),
    Metric("monosem_stage_seconds", "gauge", "Wall time of a finished stage in seconds.", ("stage",)),
    Metric("monosem_harvest_tokens_total", "counter", "Tokens run through the subject model by the harvest."),
    Metric("monosem_harvest_rows_total", "counter", "Activations written to the store, over all hookpoints."),
    Metric("monosem_shards_total", "counter", "Shards, all hookpoints as one, by outcome: committed, retried, failed.", ("outcome",)),
    Metric("monosem_harvest_queue_shards", "gauge", "Shards of the harvest that are not committed yet."),
    Metric(
        "monosem_store_put_seconds", "histogram", "Time the store took for one shard object, retries of the request included.", (),
        (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0),
    ),
    Metric("monosem_store_bytes_total", "counter", "Bytes of shards put into the store."),
    Metric("monosem_worker_restarts_total", "counter", "Workers that died and were replaced."),
    Metric("monosem_workers_stuck", "gauge", "Workers that give no sign of life or do not get on, by kind of worker.", ("worker",)),
    Metric("monosem_train_vectors_total", "counter", "Activations a dictionary was trained on.", ("dictionary",)),
    Metric("monosem_train_loss", "gauge", "Loss by term, already weighted; `total` is their sum.", ("dictionary", "term")),
    Metric("monosem_train_l0", "gauge", "Mean number of non-zero features per token.", ("dictionary",)),
    Metric("monosem_train_fvu", "gauge", "Fraction of variance unexplained.", ("dictionary",)),
    Metric("monosem_train_dead_fraction", "gauge", "Share of features silent during the dead window.", ("dictionary",)),
    Metric("monosem_train_learning_rate", "gauge", "Learning rate of the last step of a log row.", ("dictionary",)),
    Metric("monosem_train_read_seconds", "gauge", "Mean wait of a step for its batch, shared by all dictionaries of a pass.", ("dictionary",)),
    Metric("monosem_train_sync_seconds", "gauge", "Mean time of a step in exchanges with other workers, part of its step time.", ("dictionary",)),
    Metric("monosem_train_wait_seconds_total", "counter", "Seconds that training waited for a harvest beside it."),
    Metric("monosem_train_resampled_total", "counter", "Features resampled.", ("dictionary",)),
    Metric(
        "monosem_train_step_seconds", "histogram", "Wall time of one optimiser step of one dictionary.", ("dictionary",),
        (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0),
    ),
    Metric("monosem_evaluation_tokens_total", "counter", "Held-out tokens evaluated."),
    Metric("monosem_evaluation_loss_recovered", "gauge", "Loss recovered on held-out text.", ("dictionary", "ablation")),
    Metric("monosem_evaluation_density", "gauge", "Density that a share of features stays below.", ("dictionary", "share")),
    Metric("monosem_interpretation_features_total", "counter", "Features explained and scored.", ("source",)),
    Metric("monosem_interpretation_score", "gauge", "Median explanation score (Spearman).", ("source",)),
    Metric("monosem_store_errors_total", "counter", "Attempts at a task that failed because the store did not take or give an object."),
    Metric("monosem_llm_tokens_total", "counter", "Tokens sent to and got from a language model.", ("direction",)),
    Metric("monosem_llm_requests_total", "counter", "Requests to a language model by outcome.", ("outcome",)),
    Metric("monosem_llm_errors_total", "counter", "Attempts at a language model that failed and were worth repeating.", ("kind",)),
    Metric("monosem_llm_cost_dollars_total", "counter", "What the language model cost so far, in US dollars."),
    Metric("monosem_llm_budget_dollars", "gauge", "What it may cost in all, in US dollars; 0 where there is no budget."),
    Metric("monosem_browser_requests_total", "counter", "Requests the browser answered; `status` is a class such as 2xx.", ("route", "status")),
    Metric(
        "monosem_browser_request_seconds", "histogram", "Time to answer a request of the browser.", ("route",),
        (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0),
    ),
)  # fmt: skip

_KINDS = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}


def build_metrics(registry: CollectorRegistry, prefix: str = "monosem_") -> dict[str, Counter | Gauge | Histogram]:
    """Register every declared metric whose name begins with `prefix`; returns them by name."""
    built: dict[str, Counter | Gauge | Histogram] = {}
    for metric in METRICS:
        if not metric.name.startswith(prefix):
            continue
        extra = {"buckets": metric.buckets} if metric.kind == "histogram" else {}
        built[metric.name] = _KINDS[metric.kind](metric.name, metric.help, metric.labels, registry=registry, **extra)
    return built
