"""Two sources to explain in words, and a client that does not wait."""

import pytest

from sae.storage import Place
from services import language_model
from tests import planted_words as planted
from tests.services.language_interpreter.explaining import SECRET


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(language_model, "FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)


@pytest.fixture
def output(tmp_path):
    """Two sources of six features each."""
    for name in ("topk", "neurons"):
        planted.write_source(Place(tmp_path).child(name), range(7, 13))
    return Place(tmp_path)
