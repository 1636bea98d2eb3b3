"""What an evaluation leaves behind: `<name>.density.arrow`, then `<name>.json`."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from sae.architectures.base import Dictionary
from sae.config import Config
from sae.errors import PlanError
from sae.evaluation.accumulators import Sums
from sae.evaluation.downstream import DownstreamFigures, DownstreamSums
from sae.evaluation.reconstruction import ReconstructionFigures, ReconstructionSums
from sae.evaluation.sparsity import SparsityFigures, SparsitySums
from sae.storage import Place


class EvaluationInputs(Config):
    """What a report was measured with: two reports with equal inputs hold the same figures."""

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
    target_hookpoint: str | None = Field(None, description="what a transcoder reconstructs, and where its figures are taken; null: `hookpoint`")
    inputs: EvaluationInputs


@dataclass
class EvaluationSums(Sums):
    """All sums of one dictionary."""

    reconstruction: ReconstructionSums
    sparsity: SparsitySums
    downstream: DownstreamSums


def build_report(
    name: str, dictionary: Dictionary, hookpoint: str, sums: EvaluationSums, inputs: EvaluationInputs, target_hookpoint: str | None = None
) -> EvaluationReport:
    """The report of a dictionary from the sums over all sequences; `target_hookpoint` is a transcoder's."""
    figures: dict[str, Any] = {}
    for part in (sums.downstream.figures(inputs.seed), sums.reconstruction.figures(), sums.sparsity.figures()):
        figures |= dict(part)
    return EvaluationReport(
        name=name,
        architecture=dictionary.architecture,
        d_in=dictionary.d_in,
        d_sae=dictionary.d_sae,
        k=getattr(dictionary.config, "k", None),
        hookpoint=hookpoint,
        target_hookpoint=target_hookpoint,
        inputs=inputs,
        **figures,
    )


def write_report(place: Place, report: EvaluationReport, sums: SparsitySums) -> None:
    """Write the densities and then the report, which says that both are whole."""
    place.put(f"{report.name}.density.arrow", densities_to_ipc(sums))
    place.put_json(f"{report.name}.json", report.model_dump(mode="json"))


def finished_report(place: Place, name: str, inputs: EvaluationInputs) -> EvaluationReport | None:
    """The report that is already there, or None.

    Raises:
        PlanError: it is there and was measured with other inputs.
    """
    key = f"{name}.json"
    if not place.exists(key):
        return None
    report = EvaluationReport.parse(place.get_json(key))
    differing = [field for field in EvaluationInputs.model_fields if getattr(report.inputs, field) != getattr(inputs, field)]
    if differing:
        there, now = (", ".join(f"{field} {str(getattr(each, field))[:16]}" for field in differing) for each in (report.inputs, inputs))
        raise PlanError(f"{place.path(key)} was measured with other inputs ({there}; now {now}): choose another output, or delete it")
    return report


def densities_to_ipc(sums: SparsitySums) -> pa.Buffer:
    """Density of every feature as an Arrow IPC file: columns `feature`, `tokens_fired`, `density`."""
    table = pa.table(
        {
            "feature": pa.array(np.arange(len(sums.fired), dtype=np.uint32)),
            "tokens_fired": pa.array(sums.fired.astype(np.uint64)),
            "density": pa.array(sums.density),
        }
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()
