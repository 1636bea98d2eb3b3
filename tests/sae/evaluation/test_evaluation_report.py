"""What an evaluation leaves in its directory."""

import jsonschema
import numpy as np
import pyarrow as pa
import pytest
import torch
from altered import GONE, alterations, sealed_again

from sae.errors import CorruptObjectError, FailureError, InputError, PlanError
from sae.evaluation.breakdown import WorstPredictions
from sae.evaluation.passes import evaluate_sequences
from sae.evaluation.report import EvaluationInputs, _worst_columns, build_report, finished_report, read_report, read_table, write_report
from sae.evaluation.tables import TABLES
from sae.storage import Place
from sae.subject.tokens_shown import TokenTexts, shown_line

MLP = "blocks.0.mlp.hook_post"
INPUTS = EvaluationInputs(subject_digest="s", corpus_digest="c", store_digest="a", dictionary_digest="d", num_sequences=12, seed=0)


@pytest.fixture
def written(subject, tokens, rough, tiny_corpus, tmp_path):
    sums = evaluate_sequences(subject, MLP, {"rough": rough}, torch.zeros(32), tokens, 0)["rough"]
    measured = build_report("rough", rough, MLP, sums, INPUTS)
    report = write_report(Place(tmp_path), measured, tiny_corpus, subject.tokenizer.token_texts, subject.config)
    return Place(tmp_path), report, sums


def read(place, table):
    return pa.ipc.open_file(place.open_buffer(f"rough.{table}.arrow")).read_all()


def test_a_report_comes_back_as_it_was_written(written):
    place, report, _ = written
    assert finished_report(place, "rough", INPUTS) == report
    assert read_report(place, "rough") == report
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


def test_a_figure_that_is_no_number_names_the_dictionary(subject, tokens, rough):
    sums = evaluate_sequences(subject, MLP, {"rough": rough}, torch.zeros(32), tokens, 0)["rough"]
    sums.downstream.losses.spliced[0] = np.nan
    with pytest.raises(FailureError, match="'rough' cannot be measured: .* is nan, expected a finite number.*subject.dtype=float32"):
        build_report("rough", rough, MLP, sums, INPUTS)


def test_there_is_no_report_before_it_is_written(tmp_path):
    assert finished_report(Place(tmp_path), "rough", INPUTS) is None


def test_a_report_of_other_inputs_is_not_taken_for_this_one(written):
    place, _, _ = written
    with pytest.raises(PlanError, match=r"rough\.json was measured with other inputs \(dictionary_digest d; now dictionary_digest other\)"):
        finished_report(place, "rough", INPUTS.model_copy(update={"dictionary_digest": "other"}))


def test_losses_by_position_and_by_the_clean_models_loss_lie_beside_it(written):
    place, report, _ = written
    positions, losses = read(place, "positions"), read(place, "losses")
    measured = ["predictions", "clean", "spliced", "zero_ablated", "mean_ablated", "kl_divergence", "top1_agreement", "loss_recovered_zero"]
    assert positions.column_names == ["position", *measured]
    assert losses.column_names == ["low", "high", *measured]
    assert positions["position"].to_pylist() == list(range(31))
    assert positions["predictions"][0].as_py() == 0, "position 0 is BOS"
    for table in (positions, losses):
        rows = [row for row in table.to_pylist() if row["predictions"]]
        assert sum(row["predictions"] for row in rows) == report.num_predictions
        for name, mean in report.cross_entropy.model_dump().items():
            assert sum(row["predictions"] * row[name] for row in rows) / report.num_predictions == pytest.approx(mean)
    for row in losses.to_pylist():
        assert row["predictions"] == 0 or row["low"] <= row["clean"] < row["high"]


def test_the_worst_percent_of_predictions_are_named(written, subject):
    place, report, _ = written
    rows = read(place, "worst").to_pylist()
    assert len(rows) == report.worst_percent.num_predictions == -(-report.num_predictions // 100)
    assert rows[-1]["kl_divergence"] == report.worst_percent.kl_threshold
    assert rows == sorted(rows, key=lambda row: -row["kl_divergence"])
    assert rows[0]["next_token"] == subject.tokenizer.token_texts[rows[0]["next_token_id"]]


def test_the_worst_stand_where_the_corpus_has_them(subject, tiny_corpus, rough, tmp_path):
    tokens = torch.from_numpy(tiny_corpus.sequences("held_out", 3, 11).astype(np.int64))
    sums = evaluate_sequences(subject, MLP, {"rough": rough}, torch.zeros(32), tokens, 3)["rough"]
    write_report(Place(tmp_path), build_report("rough", rough, MLP, sums, INPUTS), tiny_corpus, subject.tokenizer.token_texts, subject.config)
    for row in read(Place(tmp_path), "worst").to_pylist():
        sequence = tiny_corpus.sequences("held_out", row["sequence"], row["sequence"] + 1)[0]
        assert (sequence[row["position"]], sequence[row["position"] + 1]) == (row["token_id"], row["next_token_id"])
        start = max(0, row["position"] - 15)
        assert row["context"] == "".join(shown_line(subject.tokenizer.token_texts, sequence[start : row["position"] + 1].tolist()))


def test_the_next_token_is_a_whole_character_where_it_is_a_part_of_one():
    sequence = np.resize(np.frombuffer("机é".encode(), np.uint8), 12)

    class Bytes:
        """A corpus of one character after the other, a token each byte."""

        def sequences(self, split, first, last):
            return sequence[None]

    positions = np.arange(5)
    worst = WorstPredictions(5, np.zeros(5, np.int64), positions, sequence[:5], sequence[1:6], *(np.zeros(5) for _ in range(3)))
    columns = _worst_columns(worst, Bytes(), TokenTexts([bytes([value]) for value in range(256)], ()))
    assert list(zip(columns["context"], columns["next_token"], strict=True)) == [("", "机"), ("", "机"), ("机", "é"), ("机", "é"), ("机é", "机")]


# The fields of SAEBench's core results, as its eval_output.py names them.
SAEBENCH = {
    "model_behavior_preservation": ("kl_div_score", "kl_div_with_ablation", "kl_div_with_sae"),
    "model_performance_preservation": ("ce_loss_score", "ce_loss_with_ablation", "ce_loss_with_sae", "ce_loss_without_sae"),
    "reconstruction_quality": ("explained_variance", "explained_variance_legacy", "mse", "cossim"),
    "shrinkage": ("l2_norm_in", "l2_norm_out", "l2_ratio", "relative_reconstruction_bias"),
    "sparsity": ("l0", "l1"),
    "token_stats": ("total_tokens_eval_reconstruction", "total_tokens_eval_sparsity_variance"),
    "misc_metrics": (
        "freq_over_1_percent", "freq_over_10_percent", "normalized_freq_over_1_percent", "normalized_freq_over_10_percent",
        "average_max_encoder_cosine_sim", "average_max_decoder_cosine_sim", "frac_alive",
    ),
}  # fmt: skip
SAEBENCH_FEATURE = (
    "feature_density", "consistent_activation_heuristic", "encoder_bias", "encoder_norm", "encoder_decoder_cosine_sim", "max_decoder_cosine_sim",
    "max_encoder_cosine_sim",
)  # fmt: skip


def object_schema(properties):
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def saebench_schema():
    number, integer, text = {"type": "number"}, {"type": "integer"}, {"type": "string"}
    counts = SAEBENCH["token_stats"]
    metrics = {category: object_schema({name: integer if name in counts else number for name in names}) for category, names in SAEBENCH.items()}
    named = {"eval_type_id": {"const": "core"}, "eval_id": text, "sae_bench_commit_hash": text, "sae_lens_id": text, "sae_lens_release_id": text}
    return object_schema(
        named
        | {
            "eval_config": {"type": "object"},
            "datetime_epoch_millis": {"type": "integer", "minimum": 0, "maximum": 9_999_999_999_999},
            "eval_result_metrics": object_schema(metrics),
            "eval_result_details": {
                "type": "array", "minItems": 64, "maxItems": 64, "items": object_schema({"index": integer} | dict.fromkeys(SAEBENCH_FEATURE, number)),
            },
            "sae_lens_version": {"type": "null"},
            "sae_cfg_dict": {"type": "object"},
            "eval_result_unstructured": {"type": "object"},
        }
    )  # fmt: skip


def test_the_figures_are_exported_as_saebench_has_them(written):
    place, report, sums = written
    exported = place.get_json("saebench/rough.saebench.json")
    jsonschema.validate(exported, saebench_schema())
    metrics = exported["eval_result_metrics"]
    losses = report.cross_entropy
    score = (losses.zero_ablated - losses.spliced) / (losses.zero_ablated - losses.clean)
    assert metrics["model_performance_preservation"]["ce_loss_score"] == pytest.approx(score)
    divergence = report.kl_divergence
    assert metrics["model_behavior_preservation"]["kl_div_score"] == pytest.approx(
        (divergence.zero_ablated - divergence.mean) / divergence.zero_ablated
    )
    assert metrics["reconstruction_quality"]["explained_variance"] == pytest.approx(1 - report.fvu)
    assert metrics["reconstruction_quality"]["explained_variance_legacy"] == report.explained_variance_per_token
    density = sums.sparsity.density
    assert metrics["misc_metrics"]["normalized_freq_over_10_percent"] == pytest.approx(density[density > 0.1].sum() / density.sum())
    assert metrics["misc_metrics"]["frac_alive"] == pytest.approx((density > 0).mean())
    silent = int(np.flatnonzero(density == 0)[0]) if (density == 0).any() else None
    for feature in exported["eval_result_details"]:
        index, fired = feature["index"], sums.sparsity.fired_sequences[feature["index"]]
        expected = sums.sparsity.fired[index] / fired if fired else -1
        assert feature["consistent_activation_heuristic"] == pytest.approx(expected, abs=1e-6)
    assert silent is None or exported["eval_result_details"][silent]["feature_density"] == 0


def test_no_field_of_a_report_changes_unnoticed(written):
    place, _, _ = written
    value = place.get_json("rough.json")
    for _, altered in alterations(value, others=(GONE, None, "x", -5)):
        place.put_json("rough.json", altered)
        with pytest.raises(CorruptObjectError, match="rough.json"):
            finished_report(place, "rough", INPUTS)
    for later in ("worst_percent", "density_clusters", "context_length", "norm", "reconstruction_bias", "mean_max_encoder_cosine", "tables"):
        sealed_again(place, "rough.json", {name: field for name, field in value.items() if name != later})
        with pytest.raises(InputError, match=f"field {later} is missing"):
            read_report(place, "rough")


def test_a_report_covers_its_tables_and_lies_under_its_name(written):
    place, report, _ = written
    place.put("smooth.json", place.get("rough.json"))
    with pytest.raises(CorruptObjectError, match=r"smooth\.json is of 'rough'"):
        read_report(place, "smooth")
    for table in TABLES:
        whole = place.get(f"rough.{table}.arrow")
        place.put(f"rough.{table}.arrow", whole[:-1] + b"x")
        with pytest.raises(CorruptObjectError, match=rf"rough\.{table}\.arrow has the digest"):
            finished_report(place, "rough", INPUTS)
        with pytest.raises(CorruptObjectError, match=rf"rough\.{table}\.arrow has the digest"):
            read_table(place, report, table)
        place.put(f"rough.{table}.arrow", whole)
    assert finished_report(place, "rough", INPUTS) == report
