"""Neuron to Graph: what pruning, ablation and substitution find of a feature whose rule is known, and that the model is read rightly."""

import numpy as np
import pytest
import torch

import tests.sae.interpretation.planted_features as planted
from sae.interpretation.index import index_texts
from sae.interpretation.patterns.ablation import LONGEST, ModelReader, Peak, learn_by_ablation, peaks_of
from sae.interpretation.patterns.token_graph import IGNORED, Pattern, WildcardGraph
from sae.interpretation.patterns.wording import explain, patterns_json
from sae.interpretation.sources.sources import NeuronSource
from sae.subject.model import Subject, SubjectConfig

MLP = "blocks.0.mlp.hook_post"


class RuleReader:
    """A model whose feature fires with 4 on 12 or 13 where 11 stands two tokens before, with 1 on 12 elsewhere."""

    def activations(self, runs, features):
        def of(run):
            pair = len(run) >= 3 and run[-3] == 11
            return 4.0 if pair and run[-1] in (12, 13) else 1.0 if run[-1] == 12 else 0.0

        return np.array([of(run) for run in runs], np.float32)

    def predictions(self, runs):
        return [[12, 13, 14] for _ in runs]

    bos = 0


@pytest.fixture(scope="module")
def graph():
    peaks = [Peak(7, (5, 6, 11, 9, 12), 4.0), Peak(7, (3, 11, 8, 12), 4.0)]
    return learn_by_ablation(RuleReader(), peaks, max_patterns=10)[7]


def test_contexts_are_pruned_unimportant_tokens_ignored_and_substitutes_kept_where_they_fire(graph):
    assert {pattern.tokens: pattern.mean for pattern in graph.patterns} == {(11, IGNORED, 12): 4.0, (11, IGNORED, 13): 4.0}


def test_a_peak_that_fires_in_no_context_that_is_tried_gives_no_pattern():
    """Without its 11, which stands too far back, the feature does not fire on 13; a pattern of 0 would also hide those of other peaks."""
    far, near = Peak(7, (5, 6, 13), 4.0), Peak(7, (3, 11, 8, 12), 4.0)
    assert learn_by_ablation(RuleReader(), [far, near], 10)[7].patterns == learn_by_ablation(RuleReader(), [near], 10)[7].patterns
    alone = learn_by_ablation(RuleReader(), [far], 10)[7]
    assert alone.patterns == []
    np.testing.assert_array_equal(alone.predict(np.array([[5, 6, 13]])), [[0, 0, 0]])
    assert explain(alone, planted.TEXTS)


def test_it_predicts_by_the_pattern_that_names_most_tokens(graph):
    tokens = np.array([[11, 3, 12, 12], [2, 11, 9, 13], [12, 4, 4, 11]])
    np.testing.assert_array_equal(graph.predict(tokens), [[0, 0, 4, 0], [0, 0, 0, 4], [0, 0, 0, 0]])
    both = WildcardGraph(0.5, [Pattern((11, IGNORED, 12), 4.0, 1, 4.0), Pattern((12,), 1.0, 1, 1.0)])
    np.testing.assert_array_equal(both.predict(tokens), [[0.5, 0.5, 4, 1], [0.5, 0.5, 0.5, 0.5], [1, 0.5, 0.5, 0.5]])


def test_ignored_tokens_are_shown_as_such(graph):
    assert "`<12>` after `<11>…` (4.0)" in explain(graph, planted.TEXTS)
    assert '"texts": ["<11>", "…", "<12>"]' in patterns_json(graph, planted.TEXTS)


def test_peaks_are_the_strongest_places_with_what_stands_before_them():
    text = planted.passages("train", 64, seed=0)
    pool = index_texts(text, planted.passages("held_out", 64, seed=1), planted.BUDGET).explanation
    positions, values = planted.bigram(text)
    peaks = peaks_of(pool, 3, (positions, values))
    assert peaks[0].activation == values.max()
    assert all(peak.tokens[-2:] == (planted.FIRST, planted.SECOND) for peak in peaks)
    assert max(len(peak.tokens) for peak in peaks) == LONGEST
    assert all(planted.passages("train", 64, seed=0).tokens[0, 0] not in peak.tokens for peak in peaks)
    assert peaks_of(pool, 3, (positions[:0], values[:0])) == []


def test_the_model_is_read_at_the_end_of_each_run_whatever_its_length(tiny_subject_directory):
    subject = Subject.load(SubjectConfig(model=str(tiny_subject_directory)))
    reader = ModelReader(subject, MLP, NeuronSource(32), bos=0)
    runs = [(5, 6, 7), (8,), (9, 10), (5, 6, 7, 8)]
    found = reader.activations(runs, [0, 1, 2, 3])
    for run, feature, activation in zip(runs, range(4), found, strict=True):
        x = subject.activations(torch.tensor([[0, *run]]), [MLP])[MLP][0, -1, feature]
        assert activation == pytest.approx(max(0.0, x.item()), abs=1e-5)
    likely = reader.predictions(runs)
    assert likely[2] == subject.logits(torch.tensor([[0, 9, 10]]))[0, -1].topk(5).indices.tolist()
