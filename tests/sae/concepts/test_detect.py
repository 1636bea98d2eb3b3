"""Concept detection by a pool: what workers read at the drawn tokens, what the run leaves, and what is refused."""

import json

import numpy as np
import pytest
import torch

from sae.architectures.config import TopKConfig
from sae.architectures.registry import build_dictionary
from sae.checkpoint import save_dictionary
from sae.concepts.detect import ConceptJob, ConceptOptions, ConceptWorker, detect_concepts
from sae.concepts.labelled import ConceptsConfig, label_tokens, read_labelled
from sae.concepts.report import concepts_table
from sae.errors import ConfigError, HookpointError, InputError, PlanError
from sae.execution import PoolOptions
from sae.provenance import described_dictionaries
from sae.storage import Place
from sae.subject.model import Subject, SubjectConfig

MLP = "blocks.0.mlp.hook_post"
OPTIONS = ConceptOptions(context_length=32, sequences_per_forward=4, sequences_per_task=6, num_workers=2, pool=PoolOptions(num_cpus=0.5))


@pytest.fixture(scope="module")
def subject(tiny_subject_directory):
    return Subject.load(SubjectConfig(model=str(tiny_subject_directory)))


@pytest.fixture(scope="module")
def dictionary_url(tmp_path_factory):
    return saved(Place(tmp_path_factory.mktemp("topk")), MLP)


def saved(place, hookpoint, d_in=32, **metadata):
    dictionary = build_dictionary(TopKConfig(d_sae=64, k=4), d_in)
    dictionary.initialize(torch.zeros(d_in), torch.Generator().manual_seed(1))
    save_dictionary(place, dictionary, {"hookpoint": hookpoint, **metadata})
    return place.url


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Text of two labels: one of code, the other of numbers."""
    draw = np.random.default_rng(0)
    words = {"code": ["import", "return", "class"], "numbers": ["0", "1", "2"]}
    path = tmp_path_factory.mktemp("labelled") / "labelled.jsonl"
    lines = [json.dumps({"label": label, "text": " ".join(draw.choice(own, 40))}) for label, own in words.items() for _ in range(8)]
    path.write_text("\n".join(lines))
    return ConceptsConfig(text=str(path), sequences_per_label=6, tokens_per_sequence=5, probe_sizes=[2])


def test_a_worker_reads_the_drawn_tokens(subject, config, dictionary_url):
    tokens = label_tokens(read_labelled(config), subject.tokenizer, 32, config)
    worker = ConceptWorker(ConceptJob(subject.config, described_dictionaries({"topk": dictionary_url}, "use"), tokens, sequences_per_forward=4))
    neurons, features = worker.run((2, 9))
    chosen = (tokens.rows >= 2) & (tokens.rows < 9)
    whole = subject.activations(torch.from_numpy(tokens.sequences.astype(np.int64)), [MLP])[MLP]
    expected = whole[tokens.rows[chosen], tokens.positions[chosen]]
    np.testing.assert_allclose(neurons, expected, atol=1e-5)
    np.testing.assert_allclose(features["topk"].toarray(), worker.dictionaries["topk"].encode(expected).detach(), atol=1e-4)


def test_labels_that_differ_in_every_token_are_detected_and_a_finished_report_is_left_alone(subject, config, dictionary_url, tmp_path):
    report = detect_concepts(config, OPTIONS, subject.config, {"topk": dictionary_url}, str(tmp_path))
    assert [label.label for label in report.labels] == ["code", "numbers"]
    assert [source.source for source in report.sources] == ["neurons", "topk"]
    neurons = report.sources[0].kinds
    assert neurons["probe_2"].mean_f1 > 0.8, "text of six words: its tokens tell the label"
    assert "code" in concepts_table(report)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert sorted(before) == ["concepts.json", "detectors.arrow"]
    assert detect_concepts(config, OPTIONS, subject.config, {"topk": dictionary_url}, str(tmp_path)) == report
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_without_a_text_it_says_which_key_to_set(subject, dictionary_url, tmp_path):
    with pytest.raises(ConfigError, match=r"set evaluation\.concepts\.text"):
        detect_concepts(ConceptsConfig(), OPTIONS, subject.config, {"topk": dictionary_url}, str(tmp_path))


def test_a_dictionary_called_as_the_neurons_is_refused(subject, config, dictionary_url, tmp_path):
    with pytest.raises(ConfigError, match="'neurons', as is what it is compared with"):
        detect_concepts(config, OPTIONS, subject.config, {"neurons": dictionary_url}, str(tmp_path))


def test_a_hookpoint_or_a_length_that_the_subject_does_not_have_is_refused(subject, config, dictionary_url, tmp_path):
    elsewhere = saved(Place(tmp_path), "blocks.7.mlp.hook_post")
    tokens = label_tokens(read_labelled(config), subject.tokenizer, 32, config)
    with pytest.raises(HookpointError, match=r"blocks\.7"):
        ConceptWorker(ConceptJob(subject.config, described_dictionaries({"topk": elsewhere}, "use"), tokens, 4))
    longer = label_tokens(read_labelled(config), subject.tokenizer, 48, config)
    with pytest.raises(InputError, match=r"48 tokens are longer than .* takes \(32\)"):
        ConceptWorker(ConceptJob(subject.config, described_dictionaries({"topk": dictionary_url}, "use"), longer, 4))


def test_a_dictionary_of_another_subject_is_refused(subject, config, tmp_path):
    stranger = described_dictionaries({"topk": saved(Place(tmp_path), MLP, subject_digest="f" * 64)}, "use")
    tokens = label_tokens(read_labelled(config), subject.tokenizer, 32, config)
    with pytest.raises(PlanError, match=f"'topk' was trained with a subject of the digest 'ffffffffffff', not with .*{subject.digest[:12]}"):
        ConceptWorker(ConceptJob(subject.config, stranger, tokens, 4))
