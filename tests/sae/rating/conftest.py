"""A planted run, interpreted, with a deck of four features of each source."""

import shutil

import pytest
from planted_run import VOCABULARY, write_run

from sae.rating.deck import DeckConfig, make_deck
from sae.storage import Place


@pytest.fixture(scope="session")
def planted(tmp_path_factory):
    return write_run(Place(tmp_path_factory.mktemp("planted")), num_features=20)


@pytest.fixture
def run(planted, tmp_path):
    return Place(shutil.copytree(planted.local_path(), tmp_path / "planted"))


@pytest.fixture
def deck(run):
    return make_deck(run, VOCABULARY, DeckConfig(features_per_source=4, seed=3))
