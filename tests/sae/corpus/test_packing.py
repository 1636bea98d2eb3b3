"""A corpus is packed sequences, numbered from 0, the same on every machine; held-out text never reaches training."""

import numpy as np
import pytest

from sae.corpus.packing import TokenCorpus, prepare_corpus
from sae.corpus.sources import CorpusConfig
from sae.corpus.splitting import split_documents
from sae.errors import CorruptObjectError, EmptyCorpusError, InputError, PlanError
from sae.storage import Place
from sae.subject.tokenization import SubjectTokenizer


@pytest.fixture(scope="module")
def tokenizer(tiny_subject_directory):
    return SubjectTokenizer(str(tiny_subject_directory))


def config(text_directory, **changes):
    return CorpusConfig(text=[str(text_directory)], context_length=32, held_out_fraction=0.2, **changes)


def test_a_sequence_is_bos_and_then_the_running_text_with_documents_ended_by_eos(text_directory, tokenizer, tiny_corpus):
    stream = []
    for split, text in split_documents(config(text_directory)):
        if split == "train":
            stream += [*tokenizer.encode([text])[0], tokenizer.eos_token_id]
    sequences = tiny_corpus.sequences("train", 0, tiny_corpus.num_sequences("train"))
    assert (sequences[:, 0] == tokenizer.bos_token_id).all()
    assert sequences[:, 1:].reshape(-1).tolist() == stream[: len(sequences) * 31]
    assert len(stream) - len(sequences) * 31 < 31  # nothing but the unfilled last sequence was dropped


def test_any_range_reads_as_the_same_sequences(tiny_corpus):
    everything = tiny_corpus.sequences("train", 0, tiny_corpus.num_sequences("train"))
    np.testing.assert_array_equal(tiny_corpus.sequences("train", 3, 7), everything[3:7])
    assert tiny_corpus.sequences("train", 5, 5).shape == (0, 32)
    with pytest.raises(IndexError):
        tiny_corpus.sequences("train", 0, len(everything) + 1)


def test_the_splits_share_no_document_and_every_document_is_in_one(text_directory):
    split_of = {text: split for split, text in split_documents(config(text_directory))}
    assert len(split_of) == 60
    assert 3 <= sum(split == "held_out" for split in split_of.values()) <= 25


def test_a_repeated_document_counts_once_and_stays_in_its_split_under_any_name(tmp_path, text_directory):
    (tmp_path / "copy").mkdir()
    for path in text_directory.iterdir():
        (tmp_path / "copy" / f"renamed-{path.name}").write_text(path.read_text())
    counts = {"read": 0, "duplicates": 0}
    both = CorpusConfig(text=[str(text_directory), str(tmp_path / "copy")], held_out_fraction=0.2)
    assert list(split_documents(both, counts)) == list(split_documents(config(text_directory)))
    assert counts == {"read": 120, "duplicates": 60, "empty": 0, "with_separator": 0}


def test_a_corpus_made_twice_has_the_same_digest_and_is_not_made_again(tmp_path, text_directory, tokenizer, tiny_corpus):
    place = Place(tmp_path)
    again = prepare_corpus(config(text_directory), tokenizer, place)
    assert again.manifest == tiny_corpus.manifest
    before = (tmp_path / "manifest.json").stat().st_mtime_ns
    prepare_corpus(config(text_directory), tokenizer, place)
    assert (tmp_path / "manifest.json").stat().st_mtime_ns == before


def test_a_limit_in_tokens_ends_each_split(tmp_path, text_directory, tokenizer):
    corpus = prepare_corpus(config(text_directory, train_tokens=1000, held_out_tokens=100), tokenizer, Place(tmp_path))
    assert corpus.num_sequences("train") == -(-1000 // 32)
    assert corpus.num_sequences("held_out") == -(-100 // 32)


def test_another_configuration_in_the_same_place_names_the_differing_key(tmp_path, text_directory, tokenizer):
    prepare_corpus(config(text_directory, train_tokens=1000), tokenizer, Place(tmp_path))
    with pytest.raises(PlanError, match=r"corpus\.train_tokens \(there 1000, now 2000\)"):
        prepare_corpus(config(text_directory, train_tokens=2000), tokenizer, Place(tmp_path))


def test_text_that_fills_no_sequence_is_an_empty_corpus(tmp_path, tokenizer):
    (tmp_path / "short.txt").write_text("the")
    with pytest.raises(EmptyCorpusError, match="does not fill one sequence"):
        prepare_corpus(CorpusConfig(text=[str(tmp_path / "short.txt")]), tokenizer, Place(tmp_path / "corpus"))
    with pytest.raises(InputError):  # and nothing there is taken for a corpus
        TokenCorpus(Place(tmp_path / "corpus"))


def test_a_shard_that_is_not_the_one_of_the_manifest_is_refused(tmp_path, text_directory, tokenizer):
    corpus = prepare_corpus(config(text_directory), tokenizer, Place(tmp_path))
    shard = tmp_path / "train" / "000000.arrow"
    shard.write_bytes(shard.read_bytes()[:-8] + b"\0" * 8)
    with pytest.raises(CorruptObjectError, match="not the object its manifest names"):
        corpus.sequences("train", 0, 1)
