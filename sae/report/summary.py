"""Sum of a run, `summary.json`: the main figures of each dictionary and control, cost, versions and seeds."""

from sae.report.gather import ExplainedSource, Json, RunRecord, TrainedDictionary, figure_of, gather, value_at
from sae.run.records import RunSummary
from sae.storage import Place

EVALUATED = (
    "loss_recovered_zero",
    "loss_recovered_zero_interval",
    "loss_recovered_mean",
    "loss_recovered_mean_interval",
    "cross_entropy",
    "l0",
    "fvu",
    "dead_fraction",
    "dead_window_vectors",
    "silent_fraction",
    "num_tokens",
)
EXPLAINED = ("explanation_score_median", "explanation_score_interval", "num_examined", "num_live", "num_scored")


def summarise(
    run: Place, wall_seconds: float | None = None, peak_rss_bytes: int | None = None, versions: Json | None = None, seeds: Json | None = None
) -> Json:
    """Sum a run directory up, as `summary.json` does; figures whose stage has not run are null.

    Args:
        run: the run directory.
        wall_seconds: how long the run took; by default the sum over the stages recorded in `stages.json`.
        peak_rss_bytes: the largest resident memory of all its processes together; by default that of the largest stage.
        versions: name of a package -> its version; by default the recorded ones.
        seeds: name of a stage -> its seed; by default the recorded ones.

    Raises:
        InputError: the run holds nothing to sum up.
    """
    record = gather(run)
    recorded = record.stages or {"stages": {}, "versions": {}, "seeds": {}}
    costs = list(recorded["stages"].values())
    summary = RunSummary.parse(
        {
            "dictionaries": [_summary_of(dictionary, record) for dictionary in record.dictionaries],
            "baselines": {source.name: _explained(source) for source in record.sources if source.control},
            "wall_seconds": wall_seconds if wall_seconds is not None or not costs else sum(cost["seconds"] for cost in costs),
            "peak_rss_bytes": peak_rss_bytes if peak_rss_bytes is not None or not costs else max(cost["peak_rss_bytes"] for cost in costs),
            "versions": versions or recorded["versions"],
            "seeds": seeds or recorded["seeds"],
        }
    )
    return summary.model_dump(mode="json")


def _summary_of(dictionary: TrainedDictionary, record: RunRecord) -> Json:
    config, report = dictionary.config, dictionary.evaluation
    source = next((source for source in record.sources if source.name == dictionary.name), None)
    return {
        "name": dictionary.name,
        "architecture": value_at(config or report, "architecture"),
        "d_in": value_at(config or report, "d_in"),
        "d_sae": value_at(config, "config.d_sae") if config else value_at(report, "d_sae"),
        "vectors": value_at(dictionary.result, "vectors"),
        "training_seconds": value_at(dictionary.result, "wall_seconds"),
        **{key: figure_of(dictionary, key) for key in EVALUATED},
        **_explained(source),
    }


def _explained(source: ExplainedSource | None) -> Json:
    return {key: value_at(source.summary, key) if source else None for key in EXPLAINED}
