"""Files of an evaluation: tables first, `<name>.json` last, so that a report says that its tables are whole.

::

    <name>.density.arrow             a feature a row: feature, tokens_fired, density, sequences_fired, encoder_bias, encoder_norm,
                                     encoder_decoder_cosine, ultra_low (member of the cluster of ultra-low density)
    <name>.positions.arrow           a position a row: position, predictions, clean, spliced, zero_ablated, mean_ablated (cross-entropy in
                                     nats per prediction), kl_divergence (nats per prediction), top1_agreement, loss_recovered_zero
    <name>.losses.arrow              a range of the clean model's loss a row: low, high (nats; the last is open), and the same columns
    <name>.worst.arrow               a prediction a row, the 1 % with the largest KL divergence, largest first: sequence (held out), position
                                     (of the token that predicts), context (text up to it), next_token, token_id, next_token_id, clean,
                                     spliced (cross-entropy in nats), kl_divergence
    saebench/<name>.saebench.json    the figures in SAEBench's layout
    <name>.json                      the report

A position is that of the token that predicts the next one; position 0 is BOS, from which nothing is predicted that counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field, ValidationError

from sae.architectures.base import Dictionary
from sae.config import Config
from sae.corpus.packing import TokenCorpus
from sae.errors import FailureError, PlanError
from sae.evaluation.accumulators import Sums
from sae.evaluation.breakdown import CONTEXT_TOKENS, LOSS_EDGES, WorstPredictions, worst_count
from sae.evaluation.downstream import DownstreamFigures, DownstreamSums
from sae.evaluation.reconstruction import ReconstructionFigures, ReconstructionSums
from sae.evaluation.saebench import MeasuredOn, saebench_output
from sae.evaluation.sparsity import SparsityFigures, SparsitySums
from sae.evaluation.tables import TABLES, table_key
from sae.evaluation.weights import DensityClusters, FeatureWeights, density_clusters, feature_weights, ultra_low_features
from sae.public_names import public_dataset, public_name
from sae.records import check_name, check_objects, get_record, put_record
from sae.storage import Place, sha256_hex
from sae.subject.model import SubjectConfig
from sae.subject.tokens_shown import shown_line
from sae.tables import arrow_table, ipc_bytes

CONTEXTS_AT_ONCE = 4096  # worst predictions whose sequences are read together
MOST_TO_COMPLETE = 3  # tokens after a token that may complete its character: one a byte


class EvaluationInputs(Config):
    """Inputs of a report: two reports with equal inputs hold the same figures."""

    subject_digest: str
    corpus_digest: str
    store_digest: str = Field(description="of the store whose mean activation the mean ablation uses")
    dictionary_digest: str = Field(description="of the dictionary's weights and config")
    num_sequences: int
    seed: int


class EvaluationReport(DownstreamFigures, ReconstructionFigures, SparsityFigures):
    """The figures of one dictionary on held-out text."""

    name: str
    architecture: str
    d_in: int
    d_sae: int
    k: int | None = Field(description="features kept per token, where the architecture fixes their number")
    hookpoint: str
    context_length: int | None = Field(None, description="tokens in a sequence")
    vocabulary_size: int | None = Field(None, description="tokens of the subject's tokenizer: a uniform guess among them costs its logarithm in nats")
    density_clusters: DensityClusters | None = Field(None, description="ultra-low densities and the others; null where there is one cluster")
    mean_max_encoder_cosine: float | None = Field(None, description="mean over features of the largest cosine with another feature's encoder")
    mean_max_decoder_cosine: float | None = Field(None, description="mean over features of the largest cosine with another feature's direction")
    target_hookpoint: str | None = Field(None, description="what a transcoder reconstructs, and where its figures are taken; null: `hookpoint`")
    inputs: EvaluationInputs
    tables: dict[str, str] = Field({}, description="SHA-256 of each table that was written with it, by its file")


@dataclass
class EvaluationSums(Sums):
    """All sums of one dictionary."""

    reconstruction: ReconstructionSums
    sparsity: SparsitySums
    downstream: DownstreamSums


@dataclass(frozen=True)
class Measured:
    """A report and what its tables are made of."""

    report: EvaluationReport
    sums: EvaluationSums
    weights: FeatureWeights
    ultra_low: np.ndarray


def build_report(
    name: str, dictionary: Dictionary, hookpoint: str, sums: EvaluationSums, inputs: EvaluationInputs, target_hookpoint: str | None = None
) -> Measured:
    """The report of a dictionary from the sums over all sequences; `target_hookpoint` is a transcoder's.

    Raises:
        FailureError: a figure is not a finite number.
    """
    try:
        return _measured(name, dictionary, hookpoint, sums, inputs, target_hookpoint)
    except ValidationError as error:
        problem = error.errors()[0]
        raise FailureError(
            f"dictionary {name!r} cannot be measured: {'.'.join(map(str, problem['loc']))} is {problem['input']!s:.40}, expected a finite number. "
            "The subject overflows in its precision, or with this reconstruction: set subject.dtype=float32, or leave the dictionary out"
        ) from None


def _measured(
    name: str, dictionary: Dictionary, hookpoint: str, sums: EvaluationSums, inputs: EvaluationInputs, target_hookpoint: str | None
) -> Measured:
    figures: dict[str, Any] = {}
    for part in (sums.downstream.figures(inputs.seed), sums.reconstruction.figures(), sums.sparsity.figures()):
        figures |= dict(part)
    weights, density = feature_weights(dictionary), sums.sparsity.density
    ultra_low = ultra_low_features(density, weights, sums.sparsity.tokens)
    report = EvaluationReport(
        name=name,
        architecture=dictionary.architecture,
        d_in=dictionary.d_in,
        d_sae=dictionary.d_sae,
        k=getattr(dictionary.config, "k", None),
        hookpoint=hookpoint,
        target_hookpoint=target_hookpoint,
        context_length=len(sums.downstream.by_position.predictions) + 1,
        density_clusters=density_clusters(density, weights, ultra_low),
        mean_max_encoder_cosine=_mean_of_known(weights.max_encoder_cosine),
        mean_max_decoder_cosine=_mean_of_known(weights.max_decoder_cosine),
        inputs=inputs,
        **figures,
    )
    return Measured(report, sums, weights, ultra_low)


def write_report(place: Place, measured: Measured, corpus: TokenCorpus, token_texts: Sequence[str], subject: SubjectConfig) -> EvaluationReport:
    """Write the tables and then the report, which names them by their digests; returns it.

    Args:
        place: where they go.
        measured: what was measured.
        corpus: whose held-out sequences were measured, for the contexts of the worst predictions.
        token_texts: what each token of the subject model shows as.
        subject: the subject model as it ran.
    """
    report, sums = measured.report, measured.sums
    tables = _write_tables(place, measured, corpus, token_texts)
    report = report.model_copy(update={"vocabulary_size": len(token_texts), "tables": tables})
    resolved = report.model_dump(mode="json")
    tokens_run = report.num_sequences * (report.context_length or 0)
    model_name = (public_name(subject.model, report.inputs.subject_digest) or subject.model) + (
        "" if subject.shuffle_seed is None else f" with shuffled weights, seed {subject.shuffle_seed}"
    )
    measured_on = MeasuredOn(model_name, subject.dtype, public_dataset(corpus.manifest.config.text, report.inputs.corpus_digest))
    place.put_json(f"saebench/{report.name}.saebench.json", saebench_output(resolved, sums.sparsity, measured.weights, tokens_run, measured_on))
    put_record(place, f"{report.name}.json", report)
    return report


def _write_tables(place: Place, measured: Measured, corpus: TokenCorpus, token_texts: Sequence[str]) -> dict[str, str]:
    report, downstream = measured.report, measured.sums.downstream
    worst = downstream.worst.limited(worst_count(report.num_predictions))
    columns = {
        "density": _density_columns(measured),
        "positions": _position_columns(downstream),
        "losses": _loss_columns(downstream),
        "worst": _worst_columns(worst, corpus, token_texts),
    }
    digests = {}
    for table, schema in TABLES.items():
        data, key = ipc_bytes(pa.table(columns[table], schema=schema)), table_key(report.name, table)
        place.put(key, data)
        digests[key] = sha256_hex(data)
    return digests


def read_report(place: Place, name: str) -> EvaluationReport:
    """Read a report, proved. Its tables are proved where they are read, by `read_table`.

    Raises:
        InputError: there is none, or a field is missing, unknown or of a wrong type.
        CorruptObjectError: it was changed after it was written, or is of another dictionary.
    """
    key = f"{name}.json"
    report = get_record(place, key, EvaluationReport)
    check_name(report.name, name, place.path(key))
    return report


def read_table(place: Place, report: EvaluationReport, table: str) -> pa.Table:
    """Read one of `TABLES` that was written with a report.

    Raises:
        CorruptObjectError: it was changed or lost after it was written.
        InputError: it has other columns.
    """
    return arrow_table(place, table_key(report.name, table), report.tables, place.path(f"{report.name}.json"), TABLES[table])


def finished_report(place: Place, name: str, inputs: EvaluationInputs) -> EvaluationReport | None:
    """The report that is already there, proved with its tables; or None.

    Raises:
        PlanError: it is there and was measured with other inputs.
        InputError: a field is missing, unknown or of a wrong type.
        CorruptObjectError: it or a table was changed or lost after it was written.
    """
    key = f"{name}.json"
    if not place.exists(key):
        return None
    report = read_report(place, name)
    check_objects(place, {file: report.tables.get(file, "none") for file in (table_key(name, table) for table in TABLES)}, place.path(key))
    differing = [field for field in EvaluationInputs.model_fields if getattr(report.inputs, field) != getattr(inputs, field)]
    if differing:
        there, now = (", ".join(f"{field} {str(getattr(each, field))[:16]}" for field in differing) for each in (report.inputs, inputs))
        raise PlanError(f"{place.path(key)} was measured with other inputs ({there}; now {now}): choose another output, or delete it")
    return report


def _density_columns(measured: Measured) -> dict[str, Any]:
    sparsity, weights = measured.sums.sparsity, measured.weights
    return {
        "feature": np.arange(len(sparsity.fired), dtype=np.uint32),
        "tokens_fired": sparsity.fired.astype(np.uint64),
        "density": sparsity.density,
        "sequences_fired": sparsity.fired_sequences.astype(np.uint64),
        "encoder_bias": weights.encoder_bias,
        "encoder_norm": weights.encoder_norm,
        "encoder_decoder_cosine": weights.encoder_decoder_cosine,
        "ultra_low": measured.ultra_low,
    }


def _position_columns(sums: DownstreamSums) -> dict[str, Any]:
    return {"position": np.arange(len(sums.by_position.predictions), dtype=np.uint32)} | sums.by_position.columns()


def _loss_columns(sums: DownstreamSums) -> dict[str, Any]:
    return {"low": np.array(LOSS_EDGES[:-1]), "high": np.array(LOSS_EDGES[1:])} | sums.by_loss.columns()


def _worst_columns(worst: WorstPredictions, corpus: TokenCorpus, token_texts: Sequence[str]) -> dict[str, Any]:
    contexts, following = [""] * len(worst.positions), [""] * len(worst.positions)
    order = np.argsort(worst.sequence_ids, kind="stable")
    for start in range(0, len(order), CONTEXTS_AT_ONCE):
        chosen = order[start : start + CONTEXTS_AT_ONCE]
        first, last = int(worst.sequence_ids[chosen[0]]), int(worst.sequence_ids[chosen[-1]])
        sequences = corpus.sequences("held_out", first, last + 1)
        for index in chosen:
            position = int(worst.positions[index])
            tokens = sequences[worst.sequence_ids[index] - first].tolist()
            before, after = tokens[max(0, position + 1 - CONTEXT_TOKENS) : position + 1], tokens[position + 2 :][:MOST_TO_COMPLETE]
            line = shown_line(token_texts, [*before, int(worst.next_token_ids[index]), *after])
            contexts[index], following[index] = _split_text(line, len(before))
    return {
        "sequence": worst.sequence_ids.astype(np.uint64),
        "position": worst.positions.astype(np.uint32),
        "context": contexts,
        "next_token": following,
        "token_id": worst.token_ids.astype(np.uint32),
        "next_token_id": worst.next_token_ids.astype(np.uint32),
        "clean": worst.clean,
        "spliced": worst.spliced,
        "kl_divergence": worst.kl_divergence,
    }


def _split_text(line: Sequence[str], place: int) -> tuple[str, str]:
    """Text before a token, and the token's own text: the whole character where it is a part of one."""
    last = next((end for end in range(place, len(line)) if line[end]), place)
    return "".join(line[:place]), "".join(line[place : last + 1])


def _mean_of_known(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None
