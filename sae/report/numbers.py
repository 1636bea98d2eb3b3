"""The figures of the report: what each is called, what it says in a line, its formula, and where a run directory holds it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sae.interpretation.scoring import median_interval
from sae.report.gather import ExplainedSource, Json, RunRecord, TrainedDictionary, value_at

NONE = "–"


@dataclass(frozen=True)
class Figure:
    """One row of the table.

    Attributes:
        name: what it is called.
        path: where the evaluation report holds it.
        style: "share" (shown in per cent), "fixed" (three decimals), "short" (two decimals, none from 100 on).
        says: what it tells, in a line.
        formula: how it is computed, in plain text.
        source: where it comes from, if it is not our own.
    """

    name: str
    path: str
    style: str
    says: str
    formula: str = ""
    source: str = ""


GROUPS: dict[str, tuple[Figure, ...]] = {
    "What the model's predictions lose": (
        Figure(
            "Loss recovered, zero ablation",
            "loss_recovered_zero",
            "share",
            "Of the loss that zeroing the activation causes, the share that the reconstruction in its place avoids.",
            "(CE_zero − CE_spliced) / (CE_zero − CE_clean), cross-entropies over all predictions; interval: bootstrap over sequences",
            source="Bricken et al. 2023, Towards Monosemanticity",
        ),
        Figure(
            "Loss recovered, mean ablation",
            "loss_recovered_mean",
            "share",
            "The same against putting the mean activation in its place, a stricter comparison.",
            "(CE_mean − CE_spliced) / (CE_mean − CE_clean); interval: bootstrap over sequences",
        ),
        Figure(
            "KL divergence",
            "kl_divergence.mean",
            "fixed",
            "How far the next-token distribution moves, in nats per prediction.",
            "mean of sum_v p_clean(v) (log p_clean(v) − log p_spliced(v))",
            source="Karvonen et al. 2025, SAEBench (arXiv 2503.09532), core",
        ),
        Figure(
            "Top-1 agreement",
            "top1_agreement",
            "share",
            "Predictions whose likeliest token stays the same.",
            "mean of [argmax p_spliced = argmax p_clean]",
        ),
        Figure(
            "KL divergence, 99th percentile",
            "kl_divergence.quantiles.p99",
            "fixed",
            "What one prediction in a hundred exceeds, in nats.",
            "99 % quantile over predictions of KL(clean ‖ spliced)",
        ),
        Figure(
            "Share of KL in the worst 1 %",
            "worst_percent.share_of_kl",
            "share",
            "How much of all change falls on the hundredth of predictions that change most; 1 % if the damage were even.",
            "sum of KL over the 1 % of predictions with the largest KL / sum over all",
        ),
        Figure(
            "Loss increase in the worst 1 %",
            "worst_percent.loss_increase",
            "fixed",
            "What the reconstruction costs there, in nats per prediction.",
            "mean of CE_spliced − CE_clean over those predictions",
        ),
    ),
    "How close the reconstruction is": (
        Figure(
            "FVU",
            "fvu",
            "fixed",
            "Fraction of the activations' variance that the reconstruction leaves unexplained.",
            "sum‖x − x̂‖² / sum‖x − mean‖², both sums over all held-out tokens",
            source="Gao et al. 2024 (arXiv 2406.04093), normalised error; one minus it is the explained variance, taken over the whole set",
        ),
        Figure(
            "Reconstruction bias",
            "reconstruction_bias",
            "fixed",
            "1 is unbiased; below, a longer reconstruction would be closer.",
            "mean ‖x̂‖² / mean (x · x̂)",
            source="Rajamanoharan et al. 2024 (arXiv 2404.16014), eq. 10; SAEBench",
        ),
        Figure("Cosine", "cosine", "fixed", "Mean cosine of activation and reconstruction.", "mean of x·x̂ / (‖x‖ ‖x̂‖)"),
        Figure(
            "Norm ratio",
            "norm_ratio",
            "fixed",
            "Below 1 the reconstruction is shorter than the activation (shrinkage).",
            "sqrt(sum‖x̂‖² / sum‖x‖²)",
            source="Rajamanoharan et al. 2024 (arXiv 2404.16014), shrinkage",
        ),
    ),
    "How sparse the features are": (
        Figure(
            "L0",
            "l0",
            "short",
            "Features that fire on a token, on average.",
            "mean over tokens of #{i : f_i(x) ≠ 0}",
            source="Bricken et al. 2023, Towards Monosemanticity",
        ),
        Figure(
            "Dead",
            "dead_fraction",
            "share",
            "Features that did not fire on any of the last vectors of the training; the window's length is under Origin.",
            "#{i : silent for the window} / d_sae",
            source="Bricken et al. 2023, Towards Monosemanticity, resampling",
        ),
        Figure(
            "Silent on held-out text",
            "silent_fraction",
            "share",
            "Features that fire on none of the held-out tokens: the dead ones, and those too rare for this much text.",
            "#{i : density_i = 0} / d_sae",
        ),
        Figure(
            "Ultra-low density",
            "ultra_low_density_fraction",
            "share",
            "Features that fire on less than one token in a million; unknown where fewer tokens were measured.",
            "#{i : 0 < density_i < 1e-6} / d_sae",
            source="Bricken et al. 2023, Towards Monosemanticity, feature density",
        ),
        Figure(
            "Dense",
            "share_above_10_percent",
            "share",
            "Features that fire on more than a tenth of all tokens.",
            "#{i : density_i > 0.1} / d_sae",
        ),
    ),
}
LOSSES = (
    Figure("Clean", "cross_entropy.clean", "fixed", "Cross-entropy of the untouched model, nats per prediction.", "−log p(next token), mean"),
    Figure("Reconstruction spliced in", "cross_entropy.spliced", "fixed", "With the reconstruction in the activation's place."),
    Figure("Mean ablated", "cross_entropy.mean_ablated", "fixed", "With the mean activation of the store in its place."),
    Figure("Zero ablated", "cross_entropy.zero_ablated", "fixed", "With zeros in its place."),
    Figure("Perplexity, clean", "perplexity.clean", "short", "exp of the clean cross-entropy.", "exp(CE_clean)"),
    Figure("Perplexity, spliced", "perplexity.spliced", "short", "exp of the cross-entropy with the reconstruction.", "exp(CE_spliced)"),
)
EXPLAINED = Figure(
    "Explanation score, median",
    "",
    "fixed",
    "How well the explanation predicts a feature's activations on held-out text: 0 not at all, 1 in their order exactly.",
    "Spearman correlation of predicted and true activations on the scoring examples; median over scored features; interval: bootstrap over features",
    source="Bricken et al. 2023, Towards Monosemanticity, automated interpretability",
)


@dataclass(frozen=True)
class Cell:
    """A number as it is shown, with its 95 % interval where there is one."""

    value: str = NONE
    interval: str = ""


@dataclass(frozen=True)
class Row:
    """A figure with its value for every dictionary."""

    name: str
    says: str
    formula: str
    cells: list[Cell]


@dataclass(frozen=True)
class Group:
    """Rows that belong together."""

    title: str
    figures: list[Row]


@dataclass(frozen=True)
class ScoreRow:
    """The explanation scores of one source, summed up."""

    name: str
    color: int
    cells: list[Cell]


def interval_at(evaluation: Json | None, path: str) -> tuple[float, float] | None:
    """The 95 % interval of the value at a dotted path."""
    interval = value_at(evaluation, f"{path}_interval")
    return None if interval is None else (interval[0], interval[1])


def groups_of_numbers(record: RunRecord) -> list[Group]:
    """The table of numbers; empty where nothing was evaluated or interpreted."""
    if all(dictionary.evaluation is None for dictionary in record.dictionaries) and not record.sources:
        return []
    sources = {source.name: source for source in record.sources}
    groups = {**GROUPS, "Cross-entropy and perplexity": LOSSES} if any(each.evaluation for each in record.dictionaries) else {}
    shapes = [_shape_cell(each) for each in record.dictionaries]
    shape = Row("Architecture", "Kind of dictionary; below it activation width → number of features.", "", shapes)
    tables = [Group("What it is", [shape])]
    tables += [Group(title, [_row(figure, record.dictionaries) for figure in figures]) for title, figures in groups.items()]
    if sources:
        medians = [_median_cell(sources.get(each.name)) for each in record.dictionaries]
        tables.append(Group("How well features are explained", [Row(EXPLAINED.name, EXPLAINED.says, EXPLAINED.formula, medians)]))
    return tables


def interval_of(source: ExplainedSource, single_token: bool | None = None) -> tuple[float, float] | None:
    """95 % bootstrap interval of the median score over features; None for fewer than two scores."""
    if single_token is None and source.summary.get("explanation_score_interval"):
        low, high = source.summary["explanation_score_interval"]
        return low, high
    scores = source.scores(single_token)
    return median_interval(scores, 0, f"{source.name} {single_token}") if len(scores) > 1 else None


SCORE_COLUMNS = ("scored", "all", "several tokens", "one token only", "share one token")


def score_rows(record: RunRecord) -> list[ScoreRow]:
    """Medians of the explanation scores of every source: all, and by whether a feature fires on a single token."""
    rows = []
    for source in record.sources:
        scored, single = len(source.scores()), len(source.scores(single_token=True))
        cells = [
            Cell(f"{scored:,}", f"of {len(source.feature):,} examined"),
            *(_score_cell(source, kind) for kind in (None, False, True)),
            Cell(shown(single / scored, "share") if scored else NONE),
        ]
        rows.append(ScoreRow(source.label, source.color, cells))
    return rows


def shown(value: float | None, style: str) -> str:
    """A number in the style of its figure."""
    if value is None:
        return NONE
    if style == "share":
        text = f"{100 * value:.{1 if 0.1 <= abs(value) < 0.99 else 2}f} %"
    elif style == "fixed":
        text = f"{value:.3f}" if abs(value) >= 0.01 or value == 0 else f"{value:.2g}"
    else:
        text = f"{value:,.2f}" if abs(value) < 100 else f"{value:,.0f}"
    return text.replace("-", "−")


def shown_interval(interval: Sequence[float] | None, style: str) -> str:
    """Both ends of an interval."""
    return f"{shown(interval[0], style).removesuffix(' %')} to {shown(interval[1], style)}" if interval else ""


def _row(figure: Figure, dictionaries: list[TrainedDictionary]) -> Row:
    cells = [
        Cell(shown(value_at(each.figures, figure.path), figure.style), shown_interval(interval_at(each.figures, figure.path), figure.style))
        for each in dictionaries
    ]
    return Row(figure.name, figure.says, figure.formula, cells)


def _median_cell(source: ExplainedSource | None) -> Cell:
    if source is None:
        return Cell()
    median = source.summary.get("explanation_score_median")
    return Cell(shown(median, "fixed"), shown_interval(source.summary.get("explanation_score_interval"), "fixed"))


def _score_cell(source: ExplainedSource, single_token: bool | None) -> Cell:
    scores = source.scores(single_token)
    if not len(scores):
        return Cell()
    return Cell(shown(float(np.median(scores)), "fixed"), shown_interval(interval_of(source, single_token), "fixed"))


def _shape_cell(dictionary: TrainedDictionary) -> Cell:
    config = dictionary.config
    return Cell(config["architecture"], f"{config['d_in']:,} → {config['config']['d_sae']:,}") if config else Cell()
