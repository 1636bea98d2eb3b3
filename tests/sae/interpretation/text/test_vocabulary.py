"""The vocabulary of an interpretation: what was written is shown again, without store and model."""

import json

import pytest

from sae.errors import CorruptObjectError, InputError
from sae.interpretation.text.vocabulary import VOCABULARY_KEY, put_vocabulary, read_vocabulary
from sae.storage import Place
from sae.subject.model import SubjectConfig, load_tokenizer
from sae.subject.tokens_shown import TokenTexts, shown_line


class StubTokenizer:
    digest = "a" * 64

    def __init__(self, *arguments):
        self.token_texts = TokenTexts(*arguments)


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path)
    put_vocabulary(place, StubTokenizer([b"<s>", b"<s>", b"\xe6", b"\x9c\xba", b"A", b"e69c", b" \n", b""], {0}, {4}))
    return place


def test_every_token_shows_as_before_alone_and_in_a_line(place):
    texts = read_vocabulary(place)
    assert list(texts) == ["⟦<s>⟧", "<s>", "⟦0xe6⟧", "⟦0x9c⟧⟦0xba⟧", "⟦0x41⟧", "e69c", " \n", "⟦7⟧"]
    assert shown_line(texts, [0, 1, 2, 3, 4]) == ["⟦<s>⟧", "<s>", "", "机", "A"]


def test_a_real_vocabulary_comes_back_whole(tmp_path):
    tokenizer = load_tokenizer(SubjectConfig())
    put_vocabulary(Place(tmp_path), tokenizer)
    found = read_vocabulary(Place(tmp_path), tokenizer.digest)
    assert list(found) == list(tokenizer.token_texts)
    assert (found.pieces, found.special) == (tokenizer.token_texts.pieces, tokenizer.token_texts.special)


def test_another_tokenizer_than_the_corpus_was_made_with_is_refused(place):
    assert len(read_vocabulary(place, "a" * 64)) == 8
    with pytest.raises(
        CorruptObjectError, match=r"vocabulary\.json is of a tokenizer with the digest 'aaaaaaaaaaaa', and the corpus .* 'bbbbbbbbbbbb'"
    ):
        read_vocabulary(place, "b" * 64)


def test_what_was_changed_is_refused(place):
    data = place.get(VOCABULARY_KEY)
    place.put(VOCABULARY_KEY, data.replace(b'"e69c"', b'"e69d"'))
    with pytest.raises(CorruptObjectError, match=r"vocabulary\.json"):
        read_vocabulary(place)
    content = json.loads(data)
    place.put_sealed(
        VOCABULARY_KEY, {name: value for name, value in content.items() if "digest" not in name} | {"tokenizer_digest": "a", "hexadecimal": [5, 1]}
    )
    with pytest.raises(CorruptObjectError, match="not hexadecimal"):
        read_vocabulary(place)
    place.put_sealed(VOCABULARY_KEY, {"pieces": []})
    with pytest.raises(InputError, match="field tokenizer_digest is missing"):
        read_vocabulary(place)
