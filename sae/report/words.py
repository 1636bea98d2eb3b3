"""Explanations in words, made and scored by a language model: their table, and what the feature cards show of them."""

from dataclasses import dataclass
from typing import Any

from sae.interpretation.language_model.records import EXPLANATIONS_KEY, SCHEMA
from sae.report.gather import ExplainedSource, RunRecord, value_at
from sae.report.numbers import Cell, dollars, shown, shown_interval
from sae.run.layout import SUMMARY_KEY
from sae.storage import Place
from sae.tables import parquet_table

SCORES = {
    "simulation_spearman": "simulation, Spearman",
    "simulation_pearson": "simulation, Pearson",
    "detection_accuracy": "detection",
    "fuzzing_accuracy": "fuzzing",
    "logits_accuracy": "next tokens",
    "importance_spearman": "weighted by importance",
}
SHOWN = ("feature", "explainer", "explanation", "explanation_outcome", "not_scored_reason", "num_items", "num_unread", *SCORES)


@dataclass(frozen=True)
class WordsTable:
    """Scores of explanations in words: a row for each source and explainer, a column for each score that was asked for."""

    columns: list[str]
    rows: list[tuple[str, int, list[Cell]]]
    says: str


def words_table(record: RunRecord) -> WordsTable | None:
    """Medians over features with their 95 % intervals, as the summaries hold them; None where no language model was asked."""
    asked = [(source, words) for source in record.sources if (words := value_at(source.summary, "language_model"))]
    if not asked:
        return None
    explainers = [each for _, words in asked for each in words["explainers"].values()]
    known = [score for score in SCORES if any(value_at(each, f"scores.{score}.median") is not None for each in explainers)]
    chances = {score: value_at(each, f"scores.{score}.chance") for each in explainers for score in known}
    columns = ["explained", "scored", *(SCORES[score] + ("" if chances[score] is None else f" (chance {chances[score]:g})") for score in known)]
    rows = []
    for source, words in asked:
        for explainer, each in words["explainers"].items():
            cells = [Cell(f"{each['num_explained']:,}", f"of {each['num_features']:,}"), Cell(f"{each['num_scored']:,}")]
            scores = [value_at(each, f"scores.{score}") or {} for score in known]
            cells += [Cell(shown(score.get("median"), "fixed"), shown_interval(score.get("interval"), "fixed")) for score in scores]
            rows.append((f"{source.label}, {explainer}", source.color, cells))
    return WordsTable(columns, rows, _says([words for _, words in asked]))


def words_of(run: Place, source: ExplainedSource, features: list[int]) -> dict[int, list[dict[str, Any]]]:
    """The rows of some features; empty where no language model was asked.

    Raises:
        CorruptObjectError: the table was changed or lost after it was written.
        InputError: it has other columns.
    """
    if value_at(source.summary, "language_model") is None:
        return {}
    place = run.child("interpretation", source.name)
    table = parquet_table(place, EXPLANATIONS_KEY, source.summary["tables"], place.path(SUMMARY_KEY), SCHEMA, features)
    rows: dict[int, list[dict[str, Any]]] = {}
    for row in table.select(SHOWN).to_pylist():
        rows.setdefault(row["feature"], []).append(row)
    return rows


def word_scores(run: Place, sources: list[ExplainedSource]) -> dict[str, dict[tuple[str, int], float]]:
    """Scores by name, `explainer: score`, of the features of each source that have one."""
    scores: dict[str, dict[tuple[str, int], float]] = {}
    for source in sources:
        for feature, rows in words_of(run, source, source.feature.tolist()).items():
            for row in rows:
                for score, name in SCORES.items():
                    if row[score] is not None:
                        scores.setdefault(f"{row['explainer']}: {name}", {})[source.name, feature] = row[score]
    return scores


def packed_words(rows: list[dict[str, Any]]) -> list[list[Any]]:
    """Pack what a feature card shows: of each explainer its name, its sentence (or why there is none), and its scores as [name, value]."""
    packed = []
    for row in rows:
        scores = [[name, round(row[score], 3)] for score, name in SCORES.items() if row[score] is not None]
        unread = f"{row['num_unread']} of {row['num_items']} answers unreadable" if row["num_unread"] else ""
        notes = "; ".join(filter(None, (row["not_scored_reason"], unread)))
        packed.append([row["explainer"], row["explanation"], row["explanation_outcome"], scores, notes])
    return packed


def _says(asked: list[dict[str, Any]]) -> str:
    models = sorted({words["model"] for words in asked})
    total = {key: sum(words[key] for words in asked) for key in ("requests", "prompt_tokens", "reply_tokens", "cost", "num_items", "num_unread")}
    unread = shown(total["num_unread"] / total["num_items"], "share") if total["num_items"] else "–"
    unfinished = [words for words in asked if not words["complete"]]
    return (
        f"Made and scored by {', '.join(models)} in {total['requests']:,} requests, {total['prompt_tokens'] + total['reply_tokens']:,} tokens, "
        f"{dollars(total['cost'])}. {unread} of the answers asked for could not be read; they are left out of the scores. Medians over features."
        + (" Not all sampled features are done: interpret again to go on." if unfinished else "")
    )
