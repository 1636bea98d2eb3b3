"""A subject's tokenizer gives plain tokens, and shows each of them as text."""

import pytest

from sae.errors import InputError
from sae.subject.tokenization import END_OF_TEXT, SubjectTokenizer
from sae.subject.tokens_shown import shown_line


@pytest.fixture(scope="module")
def tokenizer(tiny_subject_directory):
    return SubjectTokenizer(str(tiny_subject_directory))


def test_encoding_adds_no_special_token_and_loses_nothing(tokenizer):
    text = "def tensor ü \n\t return 0"
    [tokens] = tokenizer.encode([text])
    assert not tokenizer.special_token_ids & set(tokens)
    assert tokenizer.huggingface.decode(tokens) == text


def test_a_special_token_spelt_out_in_a_document_is_plain_text(tokenizer):
    [tokens] = tokenizer.encode([f"a {END_OF_TEXT} b"])
    assert tokenizer.eos_token_id not in tokens


def test_every_token_shows_as_text_lone_bytes_as_hexadecimal_and_special_tokens_marked(tokenizer):
    [tokens] = tokenizer.encode(["tensor"])
    assert "".join(tokenizer.token_texts[token] for token in tokens) == "tensor"
    [lone_bytes] = tokenizer.encode(["ü"])
    assert [tokenizer.token_texts[token] for token in lone_bytes] in (["⟦0xc3⟧", "⟦0xbc⟧"], ["ü"])
    assert "".join(shown_line(tokenizer.token_texts, lone_bytes)) == "ü"
    assert tokenizer.token_texts[tokenizer.bos_token_id] == f"⟦{END_OF_TEXT}⟧"


def test_a_directory_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(InputError, match="cannot load a tokenizer from"):
        SubjectTokenizer(str(tmp_path))
