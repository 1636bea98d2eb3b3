"""The file for SAEBench is read by SAEBench's own classes, and says by name what was measured."""

import pytest
import torch

from sae.evaluation.passes import evaluate_sequences
from sae.evaluation.report import EvaluationInputs, build_report, write_report
from sae.storage import Place
from sae.subject.model import SubjectConfig
from tests.benchmarks.peers import Skipped, run_peer

MLP = "blocks.0.mlp.hook_post"


@pytest.fixture
def write(subject, tokens, rough, tiny_corpus, tmp_path):
    """Writes the report of a dictionary; returns the file for SAEBench."""

    def written(dictionary=rough, asked=subject.config):
        sums = evaluate_sequences(subject, MLP, {"rough": dictionary}, torch.zeros(32), tokens, 0)["rough"]
        inputs = EvaluationInputs(
            subject_digest="17518c8c" * 8, corpus_digest="ab" * 32, store_digest="a", dictionary_digest="d", num_sequences=12, seed=0
        )
        write_report(Place(tmp_path), build_report("rough", dictionary, MLP, sums, inputs), tiny_corpus, subject.tokenizer.token_texts, asked)
        return tmp_path / "saebench" / "rough.saebench.json"

    return written


def as_saebench_reads_it(path):
    try:
        return run_peer("tests.sae.evaluation.saebench_peer", path=str(path))
    except Skipped as reason:
        pytest.skip(str(reason))


def test_saebench_reads_every_field(write):
    path = write()
    ours, theirs = Place(path.parent).get_json(path.name), as_saebench_reads_it(path)
    assert theirs["eval_result_metrics"] == ours["eval_result_metrics"]
    assert theirs["eval_result_details"] == ours["eval_result_details"]
    assert theirs["eval_config"] == ours["eval_config"]
    assert theirs["sae_cfg_dict"]["hook_name"] == MLP


def test_it_reads_a_dictionary_whose_features_never_fire(write, rough):
    with torch.no_grad():
        rough.b_enc.fill_(-1e6)
    found = as_saebench_reads_it(write(rough))
    assert found["eval_result_metrics"]["misc_metrics"]["frac_alive"] == 0
    assert found["eval_result_details"][0]["consistent_activation_heuristic"] == -1


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        (SubjectConfig(model="EleutherAI/pythia-70m", dtype="bfloat16"), "EleutherAI/pythia-70m"),
        (SubjectConfig(model="/home/ann/m1", dtype="float16"), "m1@17518c8c1751"),
        (SubjectConfig(model="gpt2", shuffle_seed=3), "gpt2 with shuffled weights, seed 3"),
    ],
)
def test_model_precision_and_text_are_what_tables_group_by(write, asked, name):
    config = Place(write(asked=asked).parent).get_json("rough.saebench.json")["eval_config"]
    assert (config["model_name"], config["llm_dtype"]) == (name, asked.dtype)
    assert config["dataset"].endswith("@abababababab")
    assert "/" not in config["dataset"]
