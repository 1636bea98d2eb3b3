"""Comparison of sources: is one explained better than another, or is the difference within the noise of features and examples?

`comparison.json`, next to the directories of the sources, holds `tables`, the SHA-256 of each source's `features.parquet`, and `rows`: one for
each `dictionary`, each other `source` and each of `features` = `all`, `single_token`, `multiple_tokens`. `difference` is the median score of the
dictionary's features less that of the source's, `interval` its 95 % bootstrap interval, `within_noise` whether that holds 0, `num` the scored
features on either side. The first three are null where a side has no scored feature.
"""

from typing import Any, Literal

import numpy as np
from pydantic import NonNegativeInt

from sae.interpretation.records import SCORING_DRAWS
from sae.interpretation.sampling import draw_seed
from sae.interpretation.scoring import BOOTSTRAP_DRAWS, CONFIDENCE
from sae.records import Record, get_record, put_record
from sae.storage import Place, sha256_hex
from sae.tables import parquet_rows
from sae.units import shown_source

COMPARISON_KEY = "comparison.json"
LINE = 120  # characters that most terminals show
PARTS = {"all": None, "single_token": True, "multiple_tokens": False}


class ComparisonRow(Record):
    """A dictionary against another source."""

    dictionary: str
    source: str
    features: Literal["all", "single_token", "multiple_tokens"]
    num: tuple[NonNegativeInt, NonNegativeInt]
    difference: float | None
    interval: tuple[float, float] | None
    within_noise: bool | None


class ComparisonRecord(Record):
    """`comparison.json`."""

    rows: list[ComparisonRow]
    tables: dict[str, str]


def write_comparison(output: Place, sources: dict[str, bool], seed: int) -> list[dict[str, Any]]:
    """Compare every dictionary with every other source and write `comparison.json`; returns its rows.

    Args:
        output: where the sources' directories lie, all finished.
        sources: their names, and which of them are dictionaries.
        seed: of the bootstrap.
    """
    medians: dict[tuple[str, str], tuple[np.ndarray, float, int]] = {}
    tables = {}
    for name in sources:
        place, key = output.child(name), "features.parquet"
        buffer = place.open_buffer(key)
        tables[name] = sha256_hex(buffer)
        scored = parquet_rows(buffer, place.path(key), ["score_draws", "single_token"]).drop_null()
        single = scored.column("single_token").to_numpy()
        draws = np.array(scored.column("score_draws").to_pylist(), np.float64).reshape(len(scored), SCORING_DRAWS)
        for part, wanted in PARTS.items():
            chosen = draws if wanted is None else draws[single == wanted]
            medians[name, part] = bootstrap_medians(chosen, draw_seed(seed, "comparison", name, part)), _median(chosen), len(chosen)
    rows = []
    for number, dictionary in enumerate(sources):
        others = [name for place, name in enumerate(sources) if sources[dictionary] and name != dictionary and not (sources[name] and place < number)]
        rows += [_compare(dictionary, other, part, medians) for other in others for part in PARTS]
    put_record(output, COMPARISON_KEY, ComparisonRecord(rows=[ComparisonRow.parse(row) for row in rows], tables=tables))
    return rows


def read_comparison(output: Place) -> ComparisonRecord:
    """Read `comparison.json`, proved; that it is of the sources that lie there is for the caller to check, by `tables`.

    Raises:
        InputError: there is none, or a field is missing, unknown or of a wrong type.
        CorruptObjectError: it was changed after it was written.
    """
    return get_record(output, COMPARISON_KEY, ComparisonRecord)


def bootstrap_medians(draws: np.ndarray, seed: int) -> np.ndarray:
    """Medians over features drawn with replacement, each with its score on one of its draws of examples: `[BOOTSTRAP_DRAWS]`.

    Args:
        draws: scores, `[features, draws]`.
        seed: of the bootstrap.
    """
    if not len(draws):
        return np.empty(0)
    rng = np.random.default_rng(seed)
    features = rng.integers(0, len(draws), (BOOTSTRAP_DRAWS, len(draws)), dtype=np.uint32)
    examples = rng.integers(0, draws.shape[1], features.shape, dtype=np.uint8)
    return np.median(draws[features, examples], axis=1)


def comparison_table(rows: list[dict[str, Any]], hookpoint: str) -> list[str]:
    """The comparison in words, some lines for each dictionary and part: differences beyond noise with their interval, the others by name."""
    lines: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row["within_noise"] is None:
            continue
        low, high = row["interval"]
        other = shown_source(row["source"], hookpoint).replace("_", " ")
        said = f"within noise of {other}" if row["within_noise"] else f"{row['difference']:+.3f} [{low:+.3f}, {high:+.3f}] against {other}"
        lines.setdefault((row["dictionary"], row["features"]), []).append(said)
    names = {"all": "all features", "single_token": "single-token ones", "multiple_tokens": "the others"}
    return [line for (name, part), said in lines.items() for line in _wrapped(f"explanation score of {name}, {names[part]}:", said)]


def _wrapped(head: str, said: list[str]) -> list[str]:
    """Head and clauses in lines of at most about `LINE` characters, none of them cut."""
    lines = [head]
    for number, clause in enumerate(said, start=1):
        clause += "," if number < len(said) else ""
        if len(lines[-1]) + len(clause) > LINE:
            lines.append("   ")
        lines[-1] += f" {clause}"
    return lines


def _compare(dictionary: str, other: str, part: str, medians: dict[tuple[str, str], tuple[np.ndarray, float, int]]) -> dict[str, Any]:
    (ours, our_median, our_size), (theirs, their_median, their_size) = medians[dictionary, part], medians[other, part]
    row: dict[str, Any] = {"dictionary": dictionary, "source": other, "features": part, "num": [our_size, their_size]}
    if not our_size or not their_size:
        return row | {"difference": None, "interval": None, "within_noise": None}
    low, high = np.quantile(ours - theirs, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]).tolist()
    return row | {"difference": our_median - their_median, "interval": [low, high], "within_noise": low <= 0 <= high}


def _median(draws: np.ndarray) -> float:
    """Median of the scores on the first draw, as everywhere."""
    return float(np.median(draws[:, 0])) if len(draws) else 0.0
