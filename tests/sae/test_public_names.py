"""What leaves this machine names models and texts, and no path of it."""

import pytest

from sae.public_names import public_dataset, public_name


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        ("EleutherAI/pythia-70m", "EleutherAI/pythia-70m"),
        ("gpt2", "gpt2"),
        ("embedded", "embedded"),
        ("/home/ann/models/m1/", "m1@17518c8c0000"),
        ("~/m1", "m1@17518c8c0000"),
        ("s3://bucket/ann/m1", "m1@17518c8c0000"),
        ("C:\\Users\\ann\\m1", "m1@17518c8c0000"),
        ("", None),
        (None, None),
    ],
)
def test_a_path_becomes_its_last_part_and_the_digest(subject, name):
    assert public_name(subject, "17518c8c0000ffff") == name


@pytest.mark.parametrize(
    ("sources", "name"),
    [
        (["dependencies"], "dependencies@17518c8c0000"),
        (["hf:Skylion007/openwebtext:en:train"], "Skylion007/openwebtext:en:train@17518c8c0000"),
        (["/home/ann/private/*.jsonl", "../more/notes.txt"], "*.jsonl, notes.txt@17518c8c0000"),
        (["data/a.txt", "other/a.txt"], "a.txt@17518c8c0000"),
    ],
)
def test_a_corpus_is_named_by_its_sources(sources, name):
    assert public_dataset(sources, "17518c8c0000ffff") == name
