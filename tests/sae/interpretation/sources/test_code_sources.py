"""Sources of features, their firings kept by feature, and the directory of a source."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import save

from sae.architectures.config import TopKConfig
from sae.architectures.registry import build_dictionary
from sae.checkpoint import save_dictionary
from sae.errors import CorruptObjectError, InputError, PlanError
from sae.interpretation.examples.firings import Firings, firing_counts, write_firings
from sae.interpretation.records import FEATURES_SCHEMA, Budget
from sae.interpretation.sources.controls import FIT_KEY, fitted_source
from sae.interpretation.sources.directory import FIRINGS, SourcePlan, feature_ranges, firings_key, start_source
from sae.interpretation.sources.scratch import get_table, put_table, whole_tables
from sae.interpretation.sources.sources import NeuronSource, SourceSpec, examined_features, open_source
from sae.interpretation.summary import summarise
from sae.storage import Place

PLAN = SourcePlan(
    name="a", kind="dictionary", source_digest="d", hookpoint="h", subject_digest="s", corpus_digest="c", store_digest="t", budget=Budget()
)  # fmt: skip


@pytest.fixture
def x():
    return torch.randn(40, 8, generator=torch.Generator().manual_seed(0))


def test_neurons_are_the_positive_parts_of_the_activation(x):
    np.testing.assert_array_equal(NeuronSource(8).firings(x).toarray(), x.clamp(min=0).numpy())
    assert NeuronSource(8).directions(2, 4).tolist() == torch.eye(8)[2:4].tolist()


def test_a_dictionary_fires_as_it_encodes(tmp_path, x):
    dictionary = build_dictionary(TopKConfig(d_sae=24, k=3), 8)
    dictionary.initialize(torch.zeros(8), torch.Generator().manual_seed(0))
    save_dictionary(Place(tmp_path), dictionary, {})
    source = open_source(SourceSpec(name="a", kind="dictionary", url=str(tmp_path), num_features=24), x.mean(0), 0, Place(tmp_path))
    np.testing.assert_allclose(source.firings(x).toarray(), dictionary.eval().encode(x).detach().numpy(), rtol=1e-6)
    torch.testing.assert_close(source.directions(3, 5), dictionary.W_dec[3:5].detach() / dictionary.input_scale)


def test_a_sample_of_features_is_seeded_and_ascending():
    spec = SourceSpec(name="a", kind="neurons", num_features=100)
    sample = examined_features(spec, 10, 0)
    assert len(set(sample)) == 10
    assert sample.tolist() == sorted(sample) == examined_features(spec, 10, 0).tolist()
    assert examined_features(spec, None, 0).tolist() == list(range(100))


def test_firings_are_read_back_by_feature(tmp_path, x):
    place, source = Place(tmp_path), NeuronSource(8)
    positions = np.arange(100, 140) * 2
    write_firings(place, "a", [source.firings(x[:15]), source.firings(x[15:30])], positions[:30])
    write_firings(place, "b", [source.firings(x[30:])], positions[30:])
    firings = Firings(place, ["a", "b"], 3, 6)
    for feature in range(3, 6):
        fires = x[:, feature] > 0
        found, values = firings.of(feature)
        assert found.tolist() == positions[fires].tolist()
        assert values.tolist() == x[fires, feature].tolist()
    assert firing_counts(place, ["a", "b"]).tolist() == (x > 0).sum(0).tolist()


def test_ranges_are_bounded_by_features_and_firings():
    assert feature_ranges(np.array([1, 1, 1, 1, 1]), max_features=2, max_firings=100) == [(0, 2), (2, 4), (4, 5)]
    assert feature_ranges(np.array([5, 5, 50, 1]), max_features=9, max_firings=10) == [(0, 2), (2, 3), (3, 4)]
    assert feature_ranges(np.array([]), 2, 2) == []


def test_a_directory_of_another_plan_is_refused_by_the_differing_field(tmp_path):
    place = Place(tmp_path)
    start_source(place, PLAN)
    start_source(place, PLAN)
    with pytest.raises(PlanError, match=r"budget\.seed \(there 0, now 5\)"):
        start_source(place, PLAN.model_copy(update={"budget": Budget(seed=5)}))


def feature(number, score, *, single=False, reason=None):
    scores = dict.fromkeys(("score_spearman", "score_pearson", "score_all_tokens"), score)
    scores["score_draws"] = None if score is None else [score, score - 0.1]
    scores["firing_f1"] = score or 0.0  # measured on rare features, too
    return {"feature": number, "num_firing": 0 if reason == "silent" else 5, "not_scored_reason": reason, "single_token": single, **scores}


def test_the_summary_counts_every_feature_once():
    rows = [feature(0, 0.5), feature(1, 0.7, single=True), feature(2, 0.6), feature(3, None, reason="silent"), feature(4, None, reason="few")]
    summary = summarise(pa.Table.from_pylist(rows, schema=FEATURES_SCHEMA), SourceSpec(name="a", kind="neurons", num_features=9), "h", Budget())
    assert (summary["num_features"], summary["num_examined"], summary["num_live"], summary["num_scored"]) == (9, 5, 4, 3)
    assert summary["not_scored"] == {"silent": 1, "few": 1}
    assert summary["explanation_score_median"] == 0.6
    alone = {"num_features": 1, "num_scored": 1, "explanation_score_median": 0.7, "explanation_score_interval": [0.7, 0.7]}
    assert summary["single_token"] == alone
    assert summary["draw_medians"] == pytest.approx([0.6, 0.5])
    assert summary["held_out_medians"]["firing_f1"] == 0.6, "of scored features alone"
    assert summary["control"]
    assert sum(summary["score_histogram"]["counts"]) == 3
    low, high = summary["explanation_score_interval"]
    assert 0.5 <= low <= 0.6 <= high <= 0.7


def test_a_source_without_scores_has_no_median():
    table = pa.Table.from_pylist([feature(0, None, reason="few")], schema=FEATURES_SCHEMA)
    summary = summarise(table, SourceSpec(name="a", kind="neurons", num_features=1), "h", Budget())
    assert summary["explanation_score_median"] is None
    assert summary["draw_medians"] == []


def test_firings_that_were_changed_are_not_taken_up_by_the_next_run(tmp_path, x):
    place, keys = Place(tmp_path), [firings_key("explanation", run) for run in range(3)]
    for key in keys:
        write_firings(place, key, [NeuronSource(8).firings(x)], np.arange(40))
    assert whole_tables(place, FIRINGS) == set(keys)
    changed = bytearray(place.get(keys[1]))
    changed[len(changed) // 2] ^= 1
    place.put(keys[1], bytes(changed))
    place.put(keys[2], b"")
    assert whole_tables(place, FIRINGS) == {keys[0]}


def test_a_damaged_table_of_an_interrupted_interpretation_is_named(tmp_path, x):
    place, source = Place(tmp_path), NeuronSource(8)
    table = pa.table({"feature": [1, 2, 3]})
    put_table(place, "scratch/logits.arrow", table)
    assert get_table(place, "scratch/logits.arrow") == table
    whole = place.get("scratch/logits.arrow")
    for damaged in (whole[:-1], whole[:100] + b"\x01" + whole[101:], b"x", whole[:20]):
        place.put("scratch/logits.arrow", damaged)
        with pytest.raises(CorruptObjectError, match=r"logits\.arrow was changed after it was written.*Delete .*scratch"):
            get_table(place, "scratch/logits.arrow")
    write_firings(place, "scratch/a", [source.firings(x)], np.arange(40))
    place.put("scratch/a", place.get("scratch/a")[:-10])
    with pytest.raises(CorruptObjectError, match="scratch/a is not a whole table of firings"):
        Firings(place, ["scratch/a"], 0, 3)
    fitted = save({"center": torch.zeros(8), "written": torch.full((2, 8), float("nan"))})
    for damaged, said in ((fitted, "'written' holds values from nan"), (fitted[:50], "not a safetensors file"), (save({}), "lacks what was fitted")):
        place.put(FIT_KEY, damaged)
        with pytest.raises(InputError, match=said):
            fitted_source("nmf", place)
