"""Concept detection as a whole on planted units: figures restated, files, the table; and the proxy restated."""

import numpy as np
import pyarrow as pa
import pytest
from altered import GONE, alterations
from scipy.sparse import csc_array

from sae.concepts.detectors import feature_units, neuron_units
from sae.concepts.labelled import ConceptsConfig, LabelledTokens
from sae.concepts.proxy import log_likelihood_ratios
from sae.concepts.report import ConceptInputs, concepts_table, detect, finished_concepts, read_concepts, write_concepts
from sae.errors import CorruptObjectError, PlanError
from sae.storage import Place
from sae.units import NEURONS

SEQUENCES, LENGTH, EACH = 80, 12, 5
INPUTS = ConceptInputs(
    subject="s",
    tokenizer_digest="t",
    text_digest="c",
    dictionary_digests={"sae": "d"},
    hookpoint="blocks.0.mlp.hook_post",
    context_length=LENGTH,
    config=ConceptsConfig(),
)


@pytest.fixture(scope="module")
def tokens():
    """Two labels of two vocabularies that overlap, half of the sequences held out."""
    draw = np.random.default_rng(0)
    label_ids = np.arange(SEQUENCES) % 2
    sequences = draw.integers(1, 20, (SEQUENCES, LENGTH)) + 10 * label_ids[:, None]
    sequences[:, 0] = 0
    positions = np.concatenate([np.sort(1 + draw.permutation(LENGTH - 1)[:EACH]) for _ in range(SEQUENCES)])
    return LabelledTokens(
        labels=["first", "second"], sequences=sequences.astype(np.uint32), lengths=np.full(SEQUENCES, LENGTH),
        label_ids=label_ids, held_out=np.arange(SEQUENCES) % 4 >= 2, rows=np.repeat(np.arange(SEQUENCES), EACH), positions=positions, digest="c",
    )  # fmt: skip


@pytest.fixture(scope="module")
def report(tokens):
    """One feature that fires on nine of ten tokens of `second` and, for `first`, one on half of them; neurons at chance."""
    draw = np.random.default_rng(1)
    labels = tokens.label_ids[tokens.rows]
    features = np.maximum(draw.normal(size=(len(labels), 30)) - 1.5, 0)
    features[:, 3] = np.where((labels == 1) & (draw.random(len(labels)) < 0.9), 2.0, 0)
    features[:, 8] = np.where((labels == 0) & (draw.random(len(labels)) < 0.5), 2.0, 0)
    neurons = draw.normal(size=(len(labels), 16)).astype(np.float32)
    return detect({"sae": feature_units(csc_array(features)), NEURONS: neuron_units(neurons)}, tokens, INPUTS), features


def best(report, source, label):
    [figures] = [each for each in report.sources if each.source == source]
    return next(each for each in figures.detectors if each.kind == "single" and each.label == label)


def test_figures_are_those_of_held_out_tokens(report, tokens):
    report, features = report
    held_out = tokens.held_out[tokens.rows]
    present = tokens.label_ids[tokens.rows][held_out] == 1
    found = best(report, "sae", "second")
    detected = features[held_out, 3] > found.threshold
    hits, wrong, missed = (detected & present).sum(), (detected & ~present).sum(), (~detected & present).sum()
    assert (found.units, found.signs) == ([3], [1])
    assert found.precision == pytest.approx(hits / (hits + wrong))
    assert found.sensitivity == pytest.approx(hits / (hits + missed))
    assert found.specificity == pytest.approx((~detected & ~present).sum() / (~present).sum())
    assert found.f1 == pytest.approx(2 * hits / (2 * hits + wrong + missed))
    assert found.f1_interval[0] < found.f1 < found.f1_interval[1]
    assert found.precision_at_half_maximum == 1
    ratios = log_likelihood_ratios(tokens.sequences, tokens.lengths, tokens.label_ids, tokens.held_out, 2)
    proxy = ratios[1, tokens.rows, tokens.positions][held_out]
    assert found.proxy_correlation == pytest.approx(np.corrcoef(features[held_out, 3], proxy)[0, 1])


def test_features_that_stand_for_labels_beat_neurons_at_chance(report):
    report, _ = report
    neurons, features = report.sources
    assert (neurons.source, features.source) == (NEURONS, "sae")
    single = features.kinds["single"]
    assert single.mean_f1 == pytest.approx(np.mean([each.f1 for each in features.detectors if each.kind == "single"]))
    assert single.minus_neurons == pytest.approx(single.mean_f1 - neurons.kinds["single"].mean_f1)
    assert single.minus_neurons_interval[0] > 0
    assert neurons.kinds["single"].minus_neurons is None
    for label in report.labels:
        assert label.chance_f1 == pytest.approx(2 / 3, abs=0.01), "half of all tokens"
        assert best(report, NEURONS, label.label).f1 < label.chance_f1 + 0.05, "at chance, whatever the selection half showed"
    assert set(features.kinds) == {"single", "probe_2", "probe_5"}


def test_a_difference_within_noise_is_called_so(report, tokens):
    _, features = report
    same = neuron_units(features.astype(np.float32))
    table = concepts_table(detect({"sae": feature_units(csc_array(features)), NEURONS: same}, tokens, INPUTS))
    assert "+0.000 [+0.000, +0.000] within noise" in table


def test_the_table_names_units_figures_and_verdicts(report):
    table = concepts_table(report[0])
    lines = table.splitlines()
    assert lines[0].split() == ["label", "source", "unit", "F1", "[95", "%]", "sensitivity", "specificity", "proxy", "r"]
    [second] = [index for index, line in enumerate(lines) if line.startswith("second")]
    assert "neurons" in lines[second]
    assert lines[second + 1].split()[:2] == ["sae", "3"]
    assert any(line.startswith("sae") and "single" in line and "higher" in line for line in lines)


def test_the_table_of_a_residual_stream_speaks_of_coordinates(report):
    inputs = INPUTS.model_copy(update={"hookpoint": "blocks.0.hook_resid_post"})
    table = concepts_table(report[0].model_copy(update={"inputs": inputs}))
    assert "coordinates" in table
    assert "less the coordinates' [95 %]" in table
    assert "neurons" not in table


def test_files_come_back_as_they_were_written(report, tmp_path):
    place, report = Place(tmp_path), report[0]
    assert finished_concepts(place, INPUTS) is None
    report = write_concepts(place, report)
    assert finished_concepts(place, INPUTS) == report == read_concepts(place)
    table = pa.ipc.open_file(place.open_buffer("detectors.arrow")).read_all()
    assert table.column_names[:5] == ["source", "label", "kind", "units", "signs"]
    assert table.num_rows == 2 * 2 * 3
    with pytest.raises(PlanError, match="another text_digest"):
        finished_concepts(place, INPUTS.model_copy(update={"text_digest": "other"}))
    place.put("detectors.arrow", b"another table")
    with pytest.raises(CorruptObjectError, match=r"detectors\.arrow has the digest"):
        finished_concepts(place, INPUTS)
    for _, altered in alterations(place.get_json("concepts.json"), others=(GONE, None, "x"), most=1):
        place.put_json("concepts.json", altered)
        with pytest.raises(CorruptObjectError, match=r"concepts\.json"):
            read_concepts(place)


def test_the_proxy_is_the_best_piece_of_text_that_ends_at_the_token(tokens):
    lengths = np.where(np.arange(SEQUENCES) < 70, LENGTH, 7)
    found = log_likelihood_ratios(tokens.sequences, lengths, tokens.label_ids, tokens.held_out, 2)
    counts = np.zeros((2, 40))
    for sequence, length, label, held_out in zip(tokens.sequences, lengths, tokens.label_ids, tokens.held_out, strict=True):
        for token in sequence[1:length]:
            counts[label, token] += not held_out
    probability = counts / counts.sum(1, keepdims=True)
    logs = np.log(np.maximum(probability, 1e-10) / np.maximum(probability.mean(0), 1e-10))
    for label in range(2):
        for row in (0, 5, 71):
            for position in range(1, lengths[row]):
                pieces = [logs[label, tokens.sequences[row, first : position + 1]].sum() for first in range(1, position + 1)]
                assert found[label, row, position] == pytest.approx(max(pieces))
    assert (found[:, :, 0] == 0).all()
