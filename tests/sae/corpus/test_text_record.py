"""Text that changed after a corpus was made of it is noticed by the command that would take the old corpus for the new text."""

import os

import pytest

from sae.corpus.packing import TokenCorpus, prepare_corpus
from sae.corpus.sources import CorpusConfig
from sae.corpus.text_record import TEXT_KEY, check_text_is_the_same, record_text
from sae.errors import CorruptObjectError, PlanError
from sae.storage import Place
from sae.subject.tokenization import SubjectTokenizer


@pytest.fixture(scope="module")
def tokenizer(tiny_subject_directory):
    return SubjectTokenizer(str(tiny_subject_directory))


@pytest.fixture
def text(tmp_path, text_directory):
    (tmp_path / "text").mkdir()
    for path in text_directory.iterdir():
        (tmp_path / "text" / path.name).write_bytes(path.read_bytes())
    return tmp_path / "text"


def config(text) -> CorpusConfig:
    return CorpusConfig(text=[str(text)], context_length=32, held_out_fraction=0.2)


def same_size(path):
    path.write_bytes(path.read_bytes()[::-1])


CHANGES = {
    "added": lambda text: (text / "zzz-new.txt").write_text("a new one"),
    "removed": lambda text: sorted(text.iterdir())[0].unlink(),
    "changed": lambda text: same_size(sorted(text.iterdir())[0]),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_file_that_was_added_removed_or_changed_is_named(tmp_path, text, tokenizer, what):
    place = Place(tmp_path / "corpus")
    made = prepare_corpus(config(text), tokenizer, place)
    named = "zzz-new.txt" if what == "added" else sorted(path.name for path in text.iterdir())[0]
    before = {path: path.stat() for path in text.iterdir()}
    CHANGES[what](text)
    for path, status in before.items():  # the clock is no proof
        if path.exists():
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(PlanError, match=rf"is another than when the corpus was made: .*{named} {what}\. Restore it, or choose another output"):
        prepare_corpus(config(text), tokenizer, place)
    assert TokenCorpus(place).manifest == made.manifest, "other stages read the corpus alone"


def test_text_that_is_gone_is_no_error(tmp_path, text, tokenizer):
    place = Place(tmp_path / "corpus")
    made = prepare_corpus(config(text), tokenizer, place)
    text.rename(tmp_path / "elsewhere")
    assert prepare_corpus(config(text), tokenizer, place).manifest == made.manifest


def test_text_that_changes_while_it_is_read_makes_no_corpus(tmp_path, text, tokenizer):
    place = Place(tmp_path / "corpus")
    with pytest.raises(PlanError, match=r"is another than before it was read: .*changed"):
        prepare_corpus(config(text), tokenizer, place, lambda tokens: sorted(text.iterdir())[0].write_text("another"))
    assert not place.exists("manifest.json")


def test_more_text_than_is_read_twice_is_compared_by_its_sizes(text, monkeypatch):
    monkeypatch.setattr("sae.corpus.text_record.MOST_BYTES_READ", 10)
    record = record_text(config(text))
    same_size(sorted(text.iterdir())[0])
    check_text_is_the_same(config(text), record, "before")
    sorted(text.iterdir())[0].write_text("shorter")
    with pytest.raises(PlanError, match="changed"):
        check_text_is_the_same(config(text), record, "before")


def test_a_changed_record_is_refused(tmp_path, text, tokenizer):
    place = Place(tmp_path / "corpus")
    prepare_corpus(config(text), tokenizer, place)
    record = place.get_sealed(TEXT_KEY)
    place.put_sealed(TEXT_KEY, {"files": dict(list(record["files"].items())[1:])})
    with pytest.raises(CorruptObjectError, match=r"text\.json cannot be trusted, it is not the record of this corpus"):
        prepare_corpus(config(text), tokenizer, place)
