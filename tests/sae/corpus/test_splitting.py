"""Held-out text is chosen by content, so that it never crosses over; and neither split is empty by chance."""

import random
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae.corpus.sources import CorpusConfig
from sae.corpus.splitting import normal_form, pieces, split_documents


def words(draw, count):
    return " ".join("".join(draw.choices("abcdefghij", k=draw.randint(2, 9))) for _ in range(count))


def split(directory, texts, **config):
    """Write texts as files, and give the documents of either split."""
    directory.mkdir()
    for number, text in enumerate(texts):
        (directory / f"{number:04}.txt").write_text(text, newline="")
    found = {"train": [], "held_out": []}
    for name, text in split_documents(CorpusConfig(text=[str(directory)], **({"context_length": 32} | config))):
        found[name].append(text)
    return found


@pytest.mark.parametrize(
    "variant",
    [
        *(lambda text: text + " ", lambda text: "\n\n" + text, lambda text: text.replace(" ", "\r\n"), lambda text: text.replace(" ", "\t \u00a0")),
        *(str.upper, str.title, lambda text: unicodedata.normalize("NFD", text), lambda text: text.replace("a", "\uff41")),
        *(lambda text: text + ".", lambda text: f"\u201c{text}\u201d", lambda text: text.replace("e", "e\u200b")),
    ],
)
def test_documents_that_differ_in_form_alone_fall_on_one_side(tmp_path, variant):
    draw = random.Random(0)
    originals = [f"{words(draw, 40)} caf\u00e9 stra\u00dfe {number}" for number in range(100)]
    found = split(tmp_path / "both", [text for original in originals for text in (original, variant(original))], held_out_fraction=0.3)
    held_out, train = ({normal_form(text) for text in found[name]} for name in ("held_out", "train"))
    assert not held_out & train
    assert 10 <= len(held_out) <= 50
    assert sum(map(len, found.values())) == 200  # each variant is text of its own


def test_a_document_is_on_the_same_side_in_every_large_corpus(tmp_path):
    draw = random.Random(1)
    texts = [words(draw, 60) for _ in range(300)]
    whole = split(tmp_path / "whole", texts)
    half = split(tmp_path / "half", texts[::2])
    assert set(half["held_out"]) == set(whole["held_out"]) & set(texts[::2])


@pytest.mark.parametrize("documents", [1, 2, 3, 10, 19, 20, 30, 60])
def test_neither_split_is_empty_however_few_the_documents(tmp_path, documents):
    for seed in range(5):
        draw = random.Random(seed)
        texts = ["\n\n".join(words(draw, 80) for _ in range(120 // documents + 1)) for _ in range(documents)]
        found = split(tmp_path / f"{seed}", texts)
        sizes = {name: sum(map(len, of_one)) for name, of_one in found.items()}
        assert min(sizes.values()) >= 16 * 32
        assert sizes["held_out"] < 0.25 * sizes["train"]


def test_one_book_is_cut_at_paragraphs_and_nothing_is_lost(tmp_path):
    draw = random.Random(2)
    paragraphs = [words(draw, 60) for _ in range(200)]
    found = split(tmp_path / "book", ["\n\n".join(paragraphs)])
    parts = [paragraph for of_one in found.values() for part in of_one for paragraph in part.split("\n\n") if paragraph]
    assert sorted(parts) == sorted(paragraphs)
    assert 0.03 < sum(map(len, found["held_out"])) / len("\n\n".join(paragraphs)) < 0.15


def test_one_huge_document_among_small_ones_is_divided(tmp_path):
    draw = random.Random(3)
    found = split(tmp_path / "mixed", ["tiny " + words(draw, 2) for _ in range(30)] + [words(draw, 20_000)])
    assert all(sum(map(len, of_one)) > 16 * 32 for of_one in found.values())


def test_a_corpus_of_one_repeated_text_has_nothing_to_hold_out(tmp_path):
    assert split(tmp_path / "same", ["one and the same"] * 3)["held_out"] == []


def test_documents_without_text_are_counted(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one <|endoftext|> two"}\n{"text": null}\n{}\n{"text": " "}\n{"text": "three"}\n{"text": "three"}\n')
    counts = {}
    list(split_documents(CorpusConfig(text=[str(tmp_path / "a.jsonl")]), counts))
    assert counts == {"read": 6, "duplicates": 1, "empty": 3, "with_separator": 1}


@given(st.text(alphabet="ab. \n", max_size=400), st.integers(2, 50))
def test_pieces_are_the_text_and_none_is_longer_than_asked_for(text, size):
    cut = pieces(text, size)
    assert "".join(cut) == text
    assert all(len(piece) <= size for piece in cut)


@given(st.text(max_size=50))
def test_the_normal_form_of_a_normal_form_is_itself(text):
    assert normal_form(normal_form(text)) == normal_form(text)
    assert normal_form(text) or not text.split()
