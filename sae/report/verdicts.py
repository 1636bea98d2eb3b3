"""Warnings that stand before a run's results: what a reader must know before he quotes one of its figures."""

import math
from collections.abc import Iterator

from sae.report.gather import ExplainedSource, Json, RunRecord, value_at
from sae.report.numbers import shown

DENSE = 0.1  # share of features firing on a token above which a dictionary is not sparse
WIDE_INTERVAL = 0.1  # of a share: ten points
FEW_SCORED = 0.5  # share of live features
LITTLE_TEXT = 0.95  # of the tokens asked for: documents are whole, so a little is always missing


def verdicts(record: RunRecord) -> list[str]:
    """The warnings of a run, one sentence or two each; none where nothing is wrong."""
    return [*_of_text(record), *_of_dictionaries(record), *_of_explanations(record)]


def _of_text(record: RunRecord) -> Iterator[str]:
    asked, corpus = value_at(record.corpus, "config.train_tokens"), record.corpus
    if corpus is None or asked is None:
        return
    had = sum(shard["sequences"] for shard in corpus["train"]) * corpus["config"]["context_length"]
    if had < LITTLE_TEXT * asked:
        yield f"The text ran out: {had:,} of {asked:,} tokens were there to train on. Give more text, or ask for fewer tokens."


def _of_dictionaries(record: RunRecord) -> Iterator[str]:
    for dictionary in record.dictionaries:
        report = dictionary.evaluation
        if report is None:
            continue
        name, fvu, l0 = dictionary.name, report["fvu"], report["l0"]
        if fvu is not None and fvu > 1:
            yield f"{name} reconstructs worse than the mean activation alone would (FVU {shown(fvu, 'fixed')}, above 1): it is not usable."
        if l0 > DENSE * report["d_sae"]:
            yield f"{name} is not sparse: {shown(l0, 'short')} of its {report['d_sae']:,} features fire on a token. Raise its sparsity coefficient."
        for figure, said in (("loss_recovered_zero", "zero"), ("loss_recovered_mean", "mean")):
            yield from _of_share(name, said, report, figure)
        yield from _of_zero_ablation(name, report)


def _of_zero_ablation(name: str, report: Json) -> Iterator[str]:
    """Ablation that breaks the model flatters: any reconstruction recovers most of such a loss."""
    if not report["vocabulary_size"] or report["loss_recovered_zero"] is None:
        return
    ablated, uniform = report["cross_entropy"]["zero_ablated"], math.log(report["vocabulary_size"])
    if ablated > uniform:
        yield (
            f"Loss recovered by {name} (zero ablation) looks better than it is: zero ablation costs {shown(ablated, 'fixed')} nats, more than a "
            f"uniform guess ({shown(uniform, 'fixed')}). Quote loss recovered with mean ablation instead."
        )


def _of_share(name: str, ablation: str, report: Json, figure: str) -> Iterator[str]:
    interval = report[f"{figure}_interval"]
    if reason := report["not_defined"].get(figure):
        yield f"Loss recovered by {name} ({ablation} ablation) is not given: {reason}."
    elif interval is not None and interval[1] - interval[0] > WIDE_INTERVAL:
        low, high = (shown(end, "share") for end in interval)
        yield f"Loss recovered by {name} ({ablation} ablation) is known only to lie between {low} and {high}: measure it on more held-out text."


def _of_explanations(record: RunRecord) -> Iterator[str]:
    controls = [source for source in record.sources if source.control and source.summary["explanation_score_interval"]]
    for source in record.sources:
        if source.control:
            continue
        live, scored = source.summary["num_live"], source.summary["num_scored"]
        if live and scored < FEW_SCORED * live:
            share = shown(scored / live, "share")
            yield f"Explanation scores of {source.name} cover {share} of its live features ({scored:,} of {live:,}): the others got none."
        if better := _as_well_explained(source, controls):
            yield f"Explanations of {source.name} are no better than those of {better}, within their 95 % intervals."
    if record.sources and not any(source.name.startswith("shuffled_") for source in record.sources):
        yield (
            "There is no control on a model with shuffled weights, so the explanation scores do not show what the model has learnt: dictionaries of "
            "such a model can score as high. interpretation.controls.shuffled_run adds it."
        )


def _as_well_explained(source: ExplainedSource, controls: list[ExplainedSource]) -> str:
    """Labels of the controls whose interval reaches that of the source."""
    interval = source.summary["explanation_score_interval"]
    return " and ".join(each.label for each in controls if interval and each.summary["explanation_score_interval"][1] >= interval[0])
