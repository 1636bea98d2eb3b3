"""In a notebook a dictionary, a store and a run show their numbers and a small picture; what they show is text, never markup."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch

import sae
from sae.notebook import curve, fragment, histogram
from sae.storage import Place
from tests.planted_run import write_run


def texts(html):
    """The text of well-formed HTML."""
    return [text.strip() for text in ET.fromstring(html).itertext() if text.strip()]


def test_a_dictionary_shows_its_sizes_and_how_its_encoder_follows_its_decoder(tmp_path):
    sae.save_dictionary(tmp_path, sae.train(torch.rand(400, 6), sae.TopK(d_sae=1200, k=2), batch_size=100), {"hookpoint": "<b>blocks.0</b>"})
    html = sae.load_dictionary(tmp_path)._repr_html_()
    assert {"TopKDictionary", "1,200", "<b>blocks.0</b>", "features by the cosine of their encoder and decoder"} <= {*texts(html)}
    assert "<b>" not in html


def test_a_store_shows_its_hookpoints(tmp_path):
    store = sae.write_store(tmp_path / "store", {"mlp": np.random.default_rng(0).normal(size=(1500, 8)).astype("float32")})
    assert "1,500 × 8" in texts(store._repr_html_())
    assert repr(store).endswith("store', mlp: 1,500 × 8)")


def test_a_run_shows_the_metrics_of_its_dictionaries_and_the_scores_of_all_sources(tmp_path):
    run = sae.Run(write_run(Place(tmp_path / "run"), num_features=5))
    shown = texts(run._repr_html_())
    assert {"topk", "relu", "neurons", "FVU", f"{run.dictionaries['topk'].evaluation.fvu:.3g}"} <= {*shown}


@pytest.mark.parametrize("picture", [histogram(np.array([np.nan]), "x"), curve(np.array([1.0]), "x"), curve(np.array([1.0, np.inf]), "x")])
def test_there_is_no_picture_of_nothing(picture):
    assert picture == ""


def test_the_highest_bin_reaches_the_top_and_an_unknown_fact_is_left_out():
    ET.fromstring(histogram(np.array([0.0, 0.0, 1.0]), "a < b"))
    assert texts(fragment("title", {"known": 0.12345, "unknown": None})) == ["title", "known", "0.123"]
