"""Dictionaries, store, subject and corpus belong together, or the difference is named with both sides."""

import pytest

from sae.architectures.config import ReluConfig
from sae.architectures.registry import build_dictionary
from sae.checkpoint import save_dictionary
from sae.errors import ConfigError, HookpointError, InputError, PlanError, WidthError
from sae.provenance import check_dictionary, described_dictionaries
from sae.storage import Place
from sae.store.manifest import StorePlan

MLP, OUT = "blocks.0.mlp.hook_post", "blocks.0.hook_mlp_out"
PLAN = StorePlan(
    subject="gpt2",
    subject_digest="a" * 64,
    corpus_digest="c" * 64,
    context_length=32,
    hookpoints={MLP: 8, OUT: 4},
    num_sequences=4,
    special_token_ids=[],
)
OWN = {"hookpoint": MLP, "subject": "gpt2", "subject_digest": "a" * 64, "store_digest": "b" * 64, "context_length": 32, "dtype": "float16"}


def checked(tmp_path, d_in=8, d_out=None, **changes):
    metadata = {key: value for key, value in (OWN | changes).items() if value is not None}
    record = save_dictionary(Place(tmp_path / "one"), build_dictionary(ReluConfig(d_sae=16), d_in, d_out), metadata)
    return check_dictionary("one", "runs/one", record, PLAN, "b" * 64, "runs/store")


def test_a_dictionary_of_the_store_has_nothing_to_remark(tmp_path):
    assert checked(tmp_path) == []
    assert checked(tmp_path, subject="/elsewhere/gpt2") == []  # a model may move; its digest is what counts


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"subject_digest": "f" * 64}, PlanError, "subject 'ffffffffffff', and runs/store was made with 'aaaaaaaaaaaa'"),
        ({"store_digest": "f" * 64}, PlanError, "store 'ffffffffffff', and runs/store is 'bbbbbbbbbbbb'"),
        ({"context_length": 64}, PlanError, "context length 64, and runs/store has 32"),
        ({"dtype": "bfloat16"}, PlanError, "precision bfloat16, and runs/store has float16"),
        (
            {"hookpoint": "blocks.9.mlp.hook_post"},
            HookpointError,
            "runs/store has no 'blocks.9.mlp.hook_post'.*available: blocks.0.hook_mlp_out, blocks.0.mlp",
        ),
        ({"d_in": 16}, WidthError, "'one' has d_in 16, but 'blocks.0.mlp.hook_post' is 8 wide in runs/store"),
        ({"d_out": 8, "target_hookpoint": OUT}, WidthError, "'one' has d_out 8, but 'blocks.0.hook_mlp_out' is 4 wide"),
        ({"d_out": 4, "target_hookpoint": "nowhere"}, HookpointError, "has no 'nowhere'"),
    ],
)
def test_a_dictionary_of_something_else_is_refused(tmp_path, changes, kind, message):
    with pytest.raises(kind, match=message):
        checked(tmp_path, **changes)


def test_what_an_imported_dictionary_does_not_say_is_remarked(tmp_path):
    unsaid = {"imported": {"layout": "saelens"}, "subject_digest": None, "store_digest": None}
    remarks = checked(tmp_path, **unsaid, subject="pythia", context_length=128, dtype=None)
    assert [remark.split(":")[0] for remark in remarks] == [
        "one does not say the digest of its subject",
        "one does not say the digest of its store",
        "one was trained on activations of context length 128, and runs/store has 32",
        "one was trained on the subject 'pythia', and runs/store was made with 'gpt2'",
    ]


def test_dictionaries_that_are_used_together_share_a_hookpoint(tmp_path):
    urls = {}
    for name, metadata in (("one", {"hookpoint": MLP}), ("other", {"hookpoint": OUT}), ("lost", {})):
        save_dictionary(place := Place(tmp_path / name), build_dictionary(ReluConfig(d_sae=16), 8), metadata)
        urls[name] = place.url
    with pytest.raises(ConfigError, match="several hookpoints .one: blocks.0.mlp.hook_post, other: blocks.0.hook_mlp_out.: measure those"):
        described_dictionaries({name: urls[name] for name in ("one", "other")}, "measure")
    with pytest.raises(InputError, match="does not say which hookpoint"):
        described_dictionaries({"lost": urls["lost"]}, "measure")
    with pytest.raises(ConfigError, match="no dictionary to measure"):
        described_dictionaries({}, "measure")


def test_a_transcoder_says_what_it_reconstructs(tmp_path):
    place, transcoder = Place(tmp_path), build_dictionary(ReluConfig(d_sae=16), 8, 4)
    save_dictionary(place, transcoder, {"hookpoint": MLP})
    with pytest.raises(InputError, match="does not say what it reconstructs"):
        described_dictionaries({"one": place.url}, "measure")
    save_dictionary(place, transcoder, {"hookpoint": MLP, "target_hookpoint": OUT})
    found = described_dictionaries({"one": place.url}, "measure")
    assert (found.hookpoint, found.target_hookpoints) == (MLP, {"one": OUT})
