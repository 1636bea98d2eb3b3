"""A store at a glance: its size, its norms along the sequence, and who is filling it."""

import os

import numpy as np
import pytest
import torch

from jobs.cli import main
from jobs.show_store import position_chart, show_store
from sae.errors import InputError
from sae.storage import Place
from sae.storage.lease import LeaseRecord, hold_lease
from sae.store.manifest import StorePlan, finish_store, start_store
from sae.store.writer import write_shard

MLP = "blocks.0.mlp.hook_post"
PLAN = StorePlan(
    subject="planted", subject_digest="s", corpus_digest="c", context_length=8, hookpoints={MLP: 4}, num_sequences=6, sequences_per_shard=2,
    special_token_ids=[0],
)  # fmt: skip


def write(place: Place, plan: StorePlan, shards) -> None:
    """Position p has an activation of norm 2p; position 0 is special."""
    start_store(place, plan)
    tokens = np.tile(np.arange(8, dtype=np.uint32), (2, 1))
    for shard in shards:
        write_shard(place, plan, shard, tokens, {MLP: torch.arange(8.0)[None, :, None].expand(2, 8, 4)})


def test_a_finished_store_is_drawn(tmp_path):
    place = Place(tmp_path)
    write(place, PLAN, range(3))
    manifest = finish_store(place, PLAN)
    shown = show_store(place)
    assert "6 sequences of 8 tokens, all tokens of each" in shown
    assert f"digest    {manifest.digest}" in shown
    assert "blocks.0.mlp.hook_post: 42 activations of 4 float16" in shown
    assert "in 3 shards, not compressed" in shown
    assert "norm: mean 8, quadratic mean 8.944" in shown
    assert "mean norm by position, 2 (▁) to 14 (█):\n       ▁▂▃▅▆▇█\n      0      7" in shown


def test_a_compressed_store_says_how_much_it_saves(tmp_path):
    place, plan = Place(tmp_path), PLAN.model_copy(update={"compression": "zstd"})
    write(place, plan, range(3))
    finish_store(place, plan)
    assert "shards, zstd, " in show_store(place)
    assert " : 1" in show_store(place)


def test_an_unfinished_store_shows_its_progress_and_its_holder(tmp_path):
    place = Place(tmp_path)
    start_store(place, PLAN)
    assert "0 of 3 shards" in show_store(place)
    write(place, PLAN, [2])
    assert "an unfinished store, 1 of 3 shards" in show_store(place)
    assert f"{'█' * 21}{'·' * 43} 33 %; nobody is filling it: run its harvest again to continue" in show_store(place)
    assert "14 activations of 4 float16" in show_store(place)
    with hold_lease(place):
        assert f"33 %; being filled by process {os.getpid()} on " in show_store(place)
    gone = LeaseRecord.mine().model_copy(update={"pid": 2**22 + 1})
    place.put_json("lease/000001.json", gone.model_dump())
    assert "nobody is filling it" in show_store(place)


def test_a_store_of_a_newer_version_is_refused_in_one_line(tmp_path):
    place = Place(tmp_path)
    write(place, PLAN, [0])
    place.put_json("plan.json", {**place.get_json("plan.json"), "schema_version": 4})
    with pytest.raises(InputError, match="was written by a newer version"):
        show_store(place)


def test_long_sequences_share_columns_and_equal_norms_are_one_level():
    _, blocks, axis = position_chart([1] * 1024, [5.0] * 1024)
    assert blocks == "  " + "▁" * 64
    assert axis == "  0" + "1023".rjust(63)
    weighted = position_chart([3, 1] * 64, [1.0, 5.0] * 64)
    assert weighted[0] == "mean norm by position, 2 (▁) to 2 (█):"


def test_verification_names_every_damaged_object_also_where_the_manifest_is_one(tmp_path, capsys):
    place = Place(tmp_path)
    write(place, PLAN, range(3))
    finish_store(place, PLAN)
    assert main(["show", place.url, "--verify"]) == 0
    assert "verified: every object is what its receipt or manifest says" in capsys.readouterr().out
    place.put_json("manifest.json", place.get_json("manifest.json") | {"digest": "0" * 64})
    place.put(f"shards/{MLP}/000001.arrow", b"x")
    place.delete("tokens/000000.arrow")
    assert main(["show", place.url, "--verify"]) == 1
    said = capsys.readouterr().err
    assert "3 damaged object(s): " in said
    for name in ("manifest.json", f"shards/{MLP}/000001.arrow", "tokens/000000.arrow"):
        assert f"{place.path(name)} cannot be trusted" in said
    assert main(["show", place.url]) == 1
    assert "manifest.json cannot be trusted, its digest is not that of what it lists" in capsys.readouterr().err


def test_a_corpus_is_verified_and_a_place_that_cannot_be_is_named(tmp_path, tiny_corpus, capsys):
    place = Place(tmp_path / "corpus")
    for key in tiny_corpus.place.list():
        place.put(key, tiny_corpus.place.get(key))
    assert main(["show", place.url, "--verify"]) == 0
    place.put("held_out/000000.arrow", place.get("held_out/000000.arrow")[:-1])
    place.delete("text.json")
    assert main(["show", place.url, "--verify"]) == 1
    said = capsys.readouterr().err
    assert "2 damaged object(s): " in said
    assert "held_out/000000.arrow cannot be trusted" in said
    Place(tmp_path / "run").put_json("stages.json", {"stages": {}})
    assert main(["show", str(tmp_path / "run"), "--verify"]) == 2
    assert "is no store and no corpus, and these alone can be verified" in capsys.readouterr().err
