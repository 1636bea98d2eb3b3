"""The card beside an export: the run's own numbers, how to load it, and nothing that could break out of its table."""

import json

import pytest
import yaml
from exchanged import planted
from planted_records import STORE_DIGEST, alter_summary, write_evaluation, write_training_result
from planted_run import log_row, put_lines, write_interpretation

from sae.checkpoint import save_dictionary
from sae.errors import CorruptObjectError, PlanError
from sae.interoperability.exchange import export_dictionary, import_dictionary
from sae.interoperability.model_card import CardOptions
from sae.storage import Place

HOSTILE = "a|b`c](http://x)\n---\nlicense: mit\n# <img src=x onerror=alert(1)> $x$"


@pytest.fixture
def run(tmp_path):
    """A run with one trained, evaluated and explained dictionary."""
    run = Place(tmp_path / "run")
    write_small(run, "blocks.0.mlp.hook_post", "EleutherAI/pythia-70m")
    write_evaluation(run, "small", 0, num_tokens=249_079, l0=20.0, fvu=0.1, loss_recovered_zero=0.967, loss_recovered_zero_interval=(0.966, 0.968))
    write_interpretation(run, "small", 0.7, 3)
    alter_summary(run, "small", explanation_score_median=0.7, explanation_score_interval=(0.69, 0.71))
    return run


def write_small(run, hookpoint, subject):
    """A trained dictionary and the records of its training."""
    place = run.child("dictionaries", "small")
    origin = {"name": "small", "hookpoint": hookpoint, "subject": subject, "subject_digest": "a" * 64, "store_digest": STORE_DIGEST}
    origin |= {"context_length": 256, "dtype": "float16", "vectors": 3_000_000, "dead_fraction": 0.027}
    record = save_dictionary(place, planted("topk"), origin)
    put_lines(place, "training.jsonl", [])
    put_lines(place, "events.jsonl", [])
    write_training_result(place, record, log_row(1500), steps=1500, dead_window_vectors=500_000, seed=4)
    place.put_sealed("plan.json", {"batch_size": 2048, "dictionary": {"optimizer": {"learning_rate": 6e-4}}, "hookpoint": "h", "store": "s"})


def card_of(run, tmp_path, layout="saelens", **options):
    output = Place(tmp_path / f"out-{layout}")
    export_dictionary(run.child("dictionaries", "small"), layout, output, CardOptions(**options))
    return output.get("README.md").decode()


def front_matter(card):
    return yaml.safe_load(card.split("---\n")[1])


def test_tells_the_runs_numbers_with_their_intervals(run, tmp_path):
    card = card_of(run, tmp_path)
    assert "Measured on 249,079 held-out tokens" in card
    assert "| Loss recovered, zero ablation | 96.7 % [96.6 to 96.8 %] |" in card
    assert "| FVU | 0.100 |" in card
    assert "| L0 | 20.00 |" in card
    assert "| Dead | 2.70 % |" in card
    assert "| Explanation score | 0.700 [0.690 to 0.710] |" in card


def test_tells_where_it_comes_from_and_how_it_was_trained(run, tmp_path):
    card = card_of(run, tmp_path)
    assert "| Store digest | " + STORE_DIGEST in card
    assert "| Context length | 256 |" in card
    assert "| Trained on | 3,000,000 activations in 1,500 steps |" in card
    assert "| `dictionary.optimizer.learning\\_rate` | 0.0006 |" in card
    assert "Gao et al. 2024 (arXiv 2406.04093)" in card


def test_front_matter_is_what_the_hub_reads(run, tmp_path):
    found = front_matter(card_of(run, tmp_path, license="apache-2.0"))
    assert found["license"] == "apache-2.0"
    assert found["base_model"] == "EleutherAI/pythia-70m"
    assert {"sparse-autoencoder", "topk"} <= set(found["tags"])


@pytest.mark.parametrize(
    ("layout", "line"),
    [
        ("saelens", "from sae_lens import SAE"),
        ("dictionary_learning", "from dictionary_learning.utils import load_dictionary"),
        ("sparsify", "from sparsify import SparseCoder"),
    ],
)
def test_says_how_to_load_it_in_its_library_and_here(run, tmp_path, layout, line):
    card = card_of(run, tmp_path, layout)
    assert line in card
    assert "monosem import PATH OUTPUT" in card


def test_numbers_of_another_dictionary_are_not_shown_as_its_own(run, tmp_path):
    digest = run.child("dictionaries", "small").get_json("config.json")["digest"]
    assert "| FVU | 0.100 |" in card_of(run, tmp_path)
    whole = run.get("evaluation/small.json")
    measured = run.get_sealed("evaluation/small.json")
    run.put_sealed("evaluation/small.json", measured | {"inputs": measured["inputs"] | {"dictionary_digest": "0" * 64}})
    with pytest.raises(PlanError, match=f"'000000000000', and .*{digest[:12]}"):
        card_of(run, tmp_path, "sparsify")
    run.put("evaluation/small.json", whole)
    place = run.child("interpretation", "small")
    place.put_sealed("plan.json", place.get_sealed("plan.json") | {"source_digest": "0" * 64})
    alter_summary(run, "small")
    with pytest.raises(CorruptObjectError, match=f"'000000000000', and 'small' has '{digest[:12]}"):
        card_of(run, tmp_path, "sparsify")
    assert Place(tmp_path / "out-sparsify").list() == []


def test_a_dictionary_without_records_is_called_untested(tmp_path):
    save_dictionary(Place(tmp_path / "lonely"), planted("relu"), {})
    export_dictionary(Place(tmp_path / "lonely"), "saelens", Place(tmp_path / "out"))
    card = Place(tmp_path / "out").get("README.md").decode()
    assert "Nothing was measured of this dictionary" in card
    assert "The training's settings are not known here." in card
    assert "No licence was given" in card


def test_hostile_names_stay_text(run, tmp_path):
    write_small(run, HOSTILE, HOSTILE)
    write_evaluation(run, "small", 0)
    write_interpretation(run, "small", 0.7, 3)
    card = card_of(run, tmp_path, license=HOSTILE)
    assert front_matter(card)["license"] == HOSTILE
    assert card.count("\n---\n") == 1
    assert "<img" not in card.split("\n---\n", 1)[1]
    body = card.split("\n---\n", 1)[1]
    row = next(line for line in body.splitlines() if line.startswith("| Hookpoint |"))
    assert row.replace("\\|", "").count("|") == 3
    assert "\\](http" in row


def test_a_dictionary_that_came_from_elsewhere_claims_no_recipe_of_ours(run, tmp_path):
    card_of(run, tmp_path)
    import_dictionary(Place(tmp_path / "out-saelens"), Place(tmp_path / "back"))
    assert json.loads(Place(tmp_path / "back").get("config.json"))["metadata"]["imported"]["layout"] == "saelens"
    export_dictionary(Place(tmp_path / "back"), "saelens", Place(tmp_path / "again"))
    card = Place(tmp_path / "again").get("README.md").decode()
    assert "| Imported from | saelens |" in card
    assert "Gao et al." not in card
