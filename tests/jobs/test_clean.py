"""`clean` of a run: what killed writes left anywhere in it goes, and nothing else."""

import os
import time

import pytest

from jobs.cli import main
from sae.storage import Place

OLD = time.time() - 7200
KEYS = ("report.html.00ff.partial", "interpretation/topk/features.parquet.12ab.partial", "dictionaries/state/topk/step-1.safetensors.0f.partial")


@pytest.fixture
def run(tmp_path):
    place = Place(tmp_path)
    for key in ("config.json", "stages.json", "report.html", "mine.partial", *KEYS, "summary.json.ab.partial"):
        place.put(key, b"{}")
        os.utime(place.local_path(key), (OLD, OLD))
    os.utime(place.local_path("summary.json.ab.partial"))  # of a write that is perhaps under way
    return place


def everything(place):
    return {entry.key for entry in place.entries(partial=True)}


def test_left_overs_are_listed_and_nothing_is_deleted(run, capsys):
    before = everything(run)
    assert main(["clean", run.url]) == 0
    said = capsys.readouterr().out
    assert all(key in said for key in KEYS)
    assert "3 left-over of killed writes, 6 bytes, not deleted: --delete does it" in said
    assert everything(run) == before


def test_left_overs_are_deleted_and_nothing_else(run):
    before = everything(run)
    assert main(["clean", run.url, "--delete"]) == 0
    assert everything(run) == before - set(KEYS)


def test_a_directory_that_is_neither_run_nor_store_is_the_callers_mistake(tmp_path, capsys):
    assert main(["clean", str(tmp_path)]) == 2
    assert "holds neither a store (plan.json) nor a run" in capsys.readouterr().err
