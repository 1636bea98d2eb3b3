"""Charts of a run's training: the frontier over all dictionaries, their curves, and for each its loss terms and densities.

Up to seven dictionaries have a colour each; more are coloured by architecture, and what there is one of per dictionary is folded away.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sae.report import plots, training_plots
from sae.report.charts import Drawing
from sae.report.gather import Json, RunRecord, TrainedDictionary, value_at
from sae.report.numbers import interval_at, shown

MAX_POINTS = 150  # of a line: more cannot be told apart in a panel
MAX_WINDOWS = 50  # of a heat map
MAX_OPEN = 4  # dictionaries whose own panels are open from the start
PARTS = {"computation": "step_seconds", "exchange with other workers": "sync_seconds", "waiting for the batch": "read_seconds"}


@dataclass(frozen=True)
class Legend:
    """An entry of the legend."""

    name: str
    color: int


@dataclass(frozen=True)
class OwnPanels:
    """Panels of one dictionary alone."""

    name: str
    color: int
    drawings: list[Drawing]


@dataclass(frozen=True)
class TrainingPage:
    """Everything the training section draws.

    Attributes:
        legend: of the curves.
        frontier: L0 against FVU and against loss recovered.
        curves: all dictionaries in each panel.
        times: where a step's time goes.
        own: panels of each dictionary.
        folded: whether those are folded away.
    """

    legend: list[Legend]
    frontier: list[Drawing]
    curves: list[Drawing]
    times: list[Drawing]
    own: list[OwnPanels]
    folded: bool


def training_page(record: RunRecord) -> TrainingPage:
    """The drawings of the training section; lists are empty where nothing was logged or measured."""
    legend, colors = legend_and_colors(record.dictionaries)
    logged = [dictionary for dictionary in record.dictionaries if dictionary.log]
    own = [OwnPanels(each.name, colors[each.name], _own_drawings(each, number, colors[each.name])) for number, each in enumerate(logged)]
    return TrainingPage(
        legend=legend,
        frontier=frontiers(record, colors),
        curves=training_curves(logged, colors),
        times=step_times(logged, colors),
        own=[panels for panels in own if panels.drawings],
        folded=len(logged) > MAX_OPEN,
    )


def frontiers(record: RunRecord, colors: dict[str, int]) -> list[Drawing]:
    """L0 against FVU and against loss recovered, as the evaluation measured them; FVU at the end of training where none has run."""
    evaluated = any(value_at(each.evaluation, "fvu") is not None for each in record.dictionaries)
    where = "held-out text" if evaluated else "the last vectors of training, for there is no evaluation yet"
    lower = _points(record, "fvu", colors) if evaluated else _points_of_training(record, colors)
    higher = _points(record, "loss_recovered_zero", colors)
    drawings = []
    if lower:
        caption = f"Lower left is better: fewer features a token, less variance left unexplained. Measured on {where}."
        drawings.append(Drawing("L0 against FVU.", caption, training_plots.frontier("frontier-fvu", lower, "FVU")))
    if higher:
        caption = "Upper left is better. Bars are 95 % intervals over held-out sequences."
        svg = training_plots.frontier("frontier-loss", higher, "loss recovered (zero ablation)", percent=True)
        drawings.append(Drawing("L0 against loss recovered.", caption, svg))
    return drawings


def training_curves(logged: Sequence[TrainedDictionary], colors: dict[str, int]) -> list[Drawing]:
    """Loss, FVU, L0 and dead fraction over the vectors seen, all dictionaries in each panel."""
    panels = (
        ("loss", "Total loss.", "Mean per step, with its sparsity terms; of use within an architecture, not between two.", "losses.total"),
        ("fvu", "FVU.", "Fraction of variance unexplained, over the vectors since the point before.", "fvu"),
        ("l0", "L0.", "Features that fire on a vector, on average.", "l0"),
        ("dead", "Dead features.", "Share of features silent for the dead window.", "dead_fraction"),
    )
    labels = {"loss": "loss", "fvu": "FVU", "l0": "features per vector", "dead": "dead features"}
    drawings = []
    for key, title, caption, path in panels:
        series = [_series(dictionary, path, colors[dictionary.name]) for dictionary in logged]
        drawn = [each for each in series if each.x]
        if drawn:
            svg = plots.curves(f"training-{key}", drawn, labels[key], log=key != "dead", percent=key == "dead")
            drawings.append(Drawing(title, caption, svg))
    return drawings


def resampling_marks(dictionary: TrainedDictionary) -> list[training_plots.Mark]:
    """When features were resampled, and how many of how many then stayed alive."""
    alive = {event["resampled_at_step"]: event["alive"] for event in dictionary.events if event["event"] == "after_resampling"}
    return [
        training_plots.Mark(
            float(event["vectors"]), f"{alive[event['step']]:,}/{event['resampled']:,}" if event["step"] in alive else f"{event['resampled']:,}"
        )
        for event in dictionary.events
        if event["event"] == "resampled"
    ]


def _own_drawings(dictionary: TrainedDictionary, number: int, color: int) -> list[Drawing]:
    marks = resampling_marks(dictionary)
    events = " Dashed lines: resampling, with how many of the resampled features stayed alive." if marks else ""
    drawings = []
    terms = _terms(dictionary)
    if terms:
        svg = training_plots.loss_terms(f"terms-{number}", color, terms, marks)
        drawings.append(Drawing("Loss terms.", f"Each as it enters the total, mean per step.{events}", svg))
    histograms = _densities(dictionary)
    if histograms is not None:
        silent = shown(histograms.silent[-1] / max(1.0, histograms.counts[-1].sum() + histograms.silent[-1]), "share")
        caption = (
            f"Features by the share of vectors they fire on within a log row; darker is more features. In the last row {silent} were silent.{events}"
        )
        drawings.append(Drawing("Density over time.", caption, training_plots.densities(f"densities-{number}", color, histograms, marks)))
    return drawings


def step_times(logged: Sequence[TrainedDictionary], colors: dict[str, int]) -> list[Drawing]:
    """Where a step's time goes."""
    rows = []
    for dictionary in logged:
        means = {part: float(np.mean([row[key] for row in dictionary.log])) for part, key in PARTS.items()}
        means["computation"] -= means["exchange with other workers"]
        rows.append(training_plots.Times(dictionary.name, colors[dictionary.name], means))
    if not rows:
        return []
    caption = "From dark to light: computation, exchange with other workers, waiting for the batch, which all dictionaries of a pass share."
    return [Drawing("Where a step's time goes.", caption, training_plots.step_times("step-times", rows))]


def legend_and_colors(dictionaries: Sequence[TrainedDictionary]) -> tuple[list[Legend], dict[str, int]]:
    """The legend, and the colour of every dictionary by name: its own, or that of its architecture where there are many."""
    if len(dictionaries) <= plots.NUM_SERIES:
        return [Legend(each.name, each.color) for each in dictionaries], {each.name: each.color for each in dictionaries}
    groups = {each.name: _architecture(each) for each in dictionaries}
    order = {group: number for number, group in enumerate(dict.fromkeys(groups.values()))}
    counts = {group: sum(other == group for other in groups.values()) for group in order}
    legend = [Legend(f"{group} ({counts[group]})", number) for group, number in order.items()]
    return legend, {name: order[group] for name, group in groups.items()}


def _points(record: RunRecord, path: str, colors: dict[str, int]) -> list[training_plots.Point]:
    found = []
    for each in record.dictionaries:
        l0, value = value_at(each.evaluation, "l0"), value_at(each.evaluation, path)
        if l0 is not None and value is not None:
            interval = interval_at(each.evaluation, path)
            found.append(training_plots.Point(each.name, _architecture(each), colors[each.name], l0, value, interval))
    return found


def _points_of_training(record: RunRecord, colors: dict[str, int]) -> list[training_plots.Point]:
    last = [(each, each.log[-1]) for each in record.dictionaries if each.log and each.log[-1]["fvu"] is not None]
    return [training_plots.Point(each.name, _architecture(each), colors[each.name], row["l0"], row["fvu"]) for each, row in last]


def _architecture(dictionary: TrainedDictionary) -> str:
    return str(value_at(dictionary.config, "architecture") or value_at(dictionary.evaluation, "architecture") or dictionary.name)


def _series(dictionary: TrainedDictionary, path: str, color: int) -> plots.Series:
    points = [(row["vectors"], value_at(row, path)) for row in _thinned(dictionary.log)]
    known = [(float(x), float(y)) for x, y in points if y is not None]
    marks = [mark.x for mark in resampling_marks(dictionary)]
    return plots.Series(color, [x for x, _ in known], [y for _, y in known], marks)


def _terms(dictionary: TrainedDictionary) -> list[training_plots.Term]:
    rows = _thinned(dictionary.log)
    names = [name for name in rows[-1]["losses"] if name != "total"]
    known = [(name, [(float(row["vectors"]), row["losses"][name]) for row in rows if name in row["losses"]]) for name in sorted(names)]
    return [training_plots.Term(name, [x for x, _ in points], [y for _, y in points]) for name, points in known if any(y > 0 for _, y in points)]


def _densities(dictionary: TrainedDictionary) -> training_plots.Densities | None:
    rows = dictionary.log
    if len(rows) < 2:
        return None
    groups = np.array_split(np.arange(len(rows)), min(MAX_WINDOWS, len(rows)))  # neighbours are averaged where there are many
    first: Json = rows[0]["density_histogram"]
    counts = np.array([row["density_histogram"]["counts"] for row in rows], dtype=float)
    silent = np.array([row["density_histogram"]["silent"] for row in rows], dtype=float)
    return training_plots.Densities(
        x=[float(rows[group[-1]]["vectors"]) for group in groups],
        counts=np.array([counts[group].mean(0) for group in groups]),
        first=first["log10_first"],
        step=first["log10_step"],
        silent=[float(silent[group].mean()) for group in groups],
    )


def _thinned(log: list[Json]) -> list[Json]:
    if len(log) <= MAX_POINTS:
        return log
    return [log[place] for place in np.unique(np.linspace(0, len(log) - 1, MAX_POINTS).round().astype(int))]
