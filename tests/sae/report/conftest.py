"""One planted run for all tests of the report."""

import base64
import gzip
import json
import re

import pytest
from planted_run import VOCABULARY, write_concepts, write_interpretation, write_ratings, write_run, write_words

from sae.storage import Place


@pytest.fixture(scope="session")
def token_texts():
    """The text of every token of the planted vocabulary."""
    return VOCABULARY


@pytest.fixture(scope="session")
def data_of():
    """What a report's page carries of the features."""

    def unpack(page):
        packed = re.search(r'id="feature-data">([A-Za-z0-9+/=]+)</script>', page)[1]
        return json.loads(gzip.decompress(base64.b64decode(packed)))

    return unpack


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A whole run: corpus, store, two dictionaries, evaluations and four interpreted sources."""
    return write_run(Place(tmp_path_factory.mktemp("runs") / "planted"), num_features=60)


@pytest.fixture(scope="session")
def judged_run(tmp_path_factory):
    """A run with all that may follow: a control, explanations in words, ratings of two people, concepts in labelled text."""
    run = write_run(Place(tmp_path_factory.mktemp("judged") / "judged"), num_features=20)
    write_interpretation(run, "shuffled_topk", 0.7, 20)
    write_words(run, "topk", 20)
    write_ratings(run)
    write_concepts(run)
    return run
