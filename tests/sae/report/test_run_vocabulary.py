"""A run shows its text without its store and its model; where it cannot, numbers replace no report and make no deck."""

import logging
import shutil

import pytest
from planted_run import VOCABULARY, write_vocabulary

from jobs.rate import draw_or_read
from sae.errors import CorruptObjectError, InputError
from sae.interpretation.text.vocabulary import put_vocabulary
from sae.rating.deck import DECK_KEY
from sae.report.page import write_report
from sae.report.vocabulary import run_vocabulary
from sae.storage import Place
from sae.subject.model import SubjectConfig, load_tokenizer


@pytest.fixture
def moved(run, tmp_path):
    """The run without its store, which names no model that is there."""
    place = Place(shutil.copytree(run.local_path(), tmp_path / "moved", ignore=shutil.ignore_patterns("store", "*.html")))
    put_config(place, "models/gone")
    return place


@pytest.fixture(autouse=True)
def only_embedded(monkeypatch):
    """No model but the embedded one can be loaded, and no hub is asked."""

    def load(config):
        if config.model != "embedded":
            raise InputError("no such model")
        return load_tokenizer(config)

    monkeypatch.setattr("sae.subject.model.load_tokenizer", load)


def put_config(place, model):
    config = place.get_sealed("config.json")
    place.put_sealed("config.json", config | {"subject": {"model": model}})


def without_corpus(place):
    for key in place.list("corpus"):
        place.delete(key)


def test_a_run_shows_its_own_vocabulary(moved, data_of):
    write_vocabulary(moved)
    write_report(moved)
    assert set(data_of(moved.get("report.html").decode())["tokens"]) <= {f"⟦{VOCABULARY[0]}⟧", *VOCABULARY[1:]}
    assert " naïve" in draw_or_read(moved, 2, None).tokens


def test_a_vocabulary_of_another_tokenizer_is_refused(moved):
    put_vocabulary(moved.child("interpretation"), load_tokenizer(SubjectConfig()))
    with pytest.raises(CorruptObjectError, match=r"vocabulary\.json is of a tokenizer"):
        write_report(moved)


def test_an_older_run_takes_the_model_that_its_configuration_names(moved):
    put_config(moved, "embedded")
    with pytest.raises(InputError, match="'embedded' has another tokenizer than the corpus was made with"):
        run_vocabulary(moved)
    without_corpus(moved)
    assert list(run_vocabulary(moved)) == list(load_tokenizer(SubjectConfig()).token_texts)


def test_a_report_that_shows_text_is_not_replaced_by_numbers(moved):
    moved.put("report.html", b"text")
    with pytest.raises(InputError, match=r"report\.html is kept as it is.* no .*vocabulary\.json.*'models/gone'.*`monosem interpret`") as refused:
        write_report(moved)
    assert "\n" not in str(refused.value)
    assert moved.get("report.html") == b"text"


def test_a_first_report_shows_numbers_and_says_why(moved, caplog, data_of):
    with caplog.at_level(logging.WARNING):
        write_report(moved)
    page = moved.get("report.html").decode()
    assert set(data_of(page)["tokens"]) <= {f"⟦{token}⟧" for token in range(len(VOCABULARY))}
    assert "Tokens show as numbers: the text of the tokens is unknown" in page
    assert "the report shows tokens as their numbers" in caplog.text


def test_no_deck_of_numbers_is_drawn(moved):
    with pytest.raises(InputError, match="the text of the tokens is unknown"):
        draw_or_read(moved, None, None)
    assert not moved.exists(DECK_KEY)
