"""One planted run for all tests of the report."""

import pytest
from planted_run import VOCABULARY, write_run

from sae.storage import Place


@pytest.fixture(scope="session")
def token_texts():
    """The text of every token of the planted vocabulary."""
    return VOCABULARY


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A whole run: corpus, store, two dictionaries, evaluations and four interpreted sources."""
    return write_run(Place(tmp_path_factory.mktemp("runs") / "planted"), num_features=60)
