"""What an evaluation leaves in its directory."""

import pyarrow as pa
import pytest
import torch

from sae.errors import PlanError
from sae.evaluation.passes import evaluate_sequences
from sae.evaluation.report import EvaluationInputs, EvaluationReport, build_report, finished_report, write_report
from sae.storage import Place

MLP = "blocks.0.mlp.hook_post"
INPUTS = EvaluationInputs(subject_digest="s", corpus_digest="c", store_digest="a", dictionary_digest="d", num_sequences=12, seed=0)


@pytest.fixture
def written(subject, tokens, rough, tiny_corpus, tmp_path):
    sums = evaluate_sequences(subject, MLP, {"rough": rough}, torch.zeros(32), tokens, 0)["rough"]
    measured = build_report("rough", rough, MLP, sums, INPUTS)
    write_report(Place(tmp_path), measured, tiny_corpus, subject.tokenizer.token_texts)
    return Place(tmp_path), measured.report, sums


def read(place, table):
    return pa.ipc.open_file(place.open_buffer(f"rough.{table}.arrow")).read_all()


def test_a_report_comes_back_as_it_was_written(written):
    place, report, _ = written
    assert finished_report(place, "rough", INPUTS) == report
    assert EvaluationReport.parse(place.get_json("rough.json")) == report
    assert (report.architecture, report.d_in, report.d_sae, report.k, report.hookpoint) == ("relu", 32, 64, None, MLP)


def test_densities_lie_beside_it(written):
    place, _, sums = written
    sparsity = sums.sparsity
    table = read(place, "density")
    assert table.column_names == [
        *("feature", "tokens_fired", "density", "sequences_fired", "encoder_bias", "encoder_norm", "encoder_decoder_cosine", "ultra_low")
    ]
    assert table["feature"].to_pylist() == list(range(64))
    assert table["tokens_fired"].to_pylist() == sparsity.fired.tolist()
    assert table["density"].to_pylist() == sparsity.density.tolist()


def test_there_is_no_report_before_it_is_written(tmp_path):
    assert finished_report(Place(tmp_path), "rough", INPUTS) is None


def test_a_report_of_other_inputs_is_not_taken_for_this_one(written):
    place, _, _ = written
    with pytest.raises(PlanError, match=r"rough\.json was measured with other inputs \(dictionary_digest d; now dictionary_digest other\)"):
        finished_report(place, "rough", INPUTS.model_copy(update={"dictionary_digest": "other"}))
