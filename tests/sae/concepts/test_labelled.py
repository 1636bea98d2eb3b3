"""Labelled text: what is refused, and what becomes of it."""

import gzip
import json

import numpy as np
import pytest

from sae.concepts.labelled import ConceptsConfig, label_tokens, read_labelled
from sae.errors import InputError
from sae.storage import Place
from sae.subject.tokenization import SubjectTokenizer


@pytest.fixture
def written(tmp_path):
    """Write documents as JSONL and give the configuration that names them."""

    def write(documents, **config):
        path = tmp_path / "labelled.jsonl.gz"
        path.write_bytes(gzip.compress("\n".join(document if isinstance(document, str) else json.dumps(document) for document in documents).encode()))
        return ConceptsConfig(text=str(path), **config)

    return write


def some_documents(labels="ab", each=6):
    return [{"label": label, "text": f"import {label} " * (5 + number)} for label in labels for number in range(each)]


def test_documents_fall_into_halves_label_by_label(written):
    found = read_labelled(written(some_documents()))
    assert found.labels == ["a", "b"]
    for label in range(2):
        assert found.held_out[found.label_ids == label].tolist().count(True) == 3
    assert not set(np.array(found.texts)[found.held_out]) & set(np.array(found.texts)[~found.held_out])


def test_the_order_of_the_lines_changes_nothing(written):
    one, other = read_labelled(written(some_documents())), read_labelled(written(some_documents()[::-1]))
    assert (one.texts, one.digest) == (other.texts, other.digest)


def test_a_repeated_document_counts_once(written):
    assert len(read_labelled(written(some_documents() + some_documents())).texts) == 12


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        (some_documents("a"), r"has \['a'\] as its only class: a detector needs at least two"),
        ([], "has no label as its only class"),
        ([*some_documents("a"), {"label": "b", "text": "once"}], "label 'b' of .* has 1 document"),
        ([*some_documents(), {"label": "b", "text": "import a " * 5}], "repeats a text under the label 'b', before it was 'a'"),
        (["not json"], ":1 is not valid JSON"),
        ([{"topic": "a", "text": "words"}], ":1 holds topic, text, expected texts under 'text' and 'label'"),
        ([{"label": 3, "text": "words"}], "expected texts"),
        (["[1, 2]"], ":1 holds a list"),
    ],
    ids=["one class", "nothing", "one document", "two labels for a text", "no JSON", "no label", "a number as label", "a list"],
)
def test_text_that_cannot_be_learnt_from_is_refused(written, documents, message):
    with pytest.raises(InputError, match=message):
        read_labelled(written(documents))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.jsonl.*evaluation\.concepts\.text"):
        read_labelled(ConceptsConfig(text=str(tmp_path / "nowhere.jsonl")))


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "text.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(InputError, match=r"cannot read .*text\.jsonl\.gz: it is named as gzip"):
        read_labelled(ConceptsConfig(text=str(tmp_path / "text.jsonl.gz")))


def test_a_file_of_another_format_is_refused(tmp_path):
    for name, content in {"a.csv": b"label,text", "a.parquet": b"PAR1", "a.txt": b"words", "b.jsonl": b"\xff\xfe{"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name):
            read_labelled(ConceptsConfig(text=str(tmp_path / name)))


def test_a_line_that_cannot_be_stored_is_refused(written):
    with pytest.raises(InputError, match=":1 is not valid JSON .half of a surrogate pair"):
        read_labelled(written(['{"label": "\\ud83d", "text": "words"}']))


def test_labelled_text_is_read_from_a_url(written, tmp_path):
    config = written(some_documents())
    Place("memory://labelled").put("text.jsonl.gz", (tmp_path / "labelled.jsonl.gz").read_bytes())
    assert read_labelled(config.model_copy(update={"text": ["memory://labelled/text.jsonl.gz"]})).digest == read_labelled(config).digest
    with pytest.raises(InputError, match="memory://labelled/nowhere.jsonl does not exist"):
        read_labelled(ConceptsConfig(text="memory://labelled/nowhere.jsonl"))


def test_documents_that_are_nearly_equal_fall_into_the_same_half(written):
    pairs = [{"label": label, "text": f"import {label} {number}{end}"} for label in "ab" for number in range(8) for end in ("", " .\r\n")]
    found = read_labelled(written(pairs))
    assert len(found.texts) == 32
    held_out, other = ({text.strip(" .\r\n") for text in np.array(found.texts)[half]} for half in (found.held_out, ~found.held_out))
    assert not held_out & other
    with pytest.raises(InputError, match="all documents of the label 'a' of .* are alike"):
        read_labelled(written([{"label": "a", "text": "one"}, {"label": "a", "text": "One!"}, *some_documents("b")]))


@pytest.fixture
def tokenizer(tiny_subject_directory):
    return SubjectTokenizer(str(tiny_subject_directory))


def test_sequences_hold_one_document_each_and_tokens_are_drawn_from_its_text(written, tokenizer):
    config = written(some_documents("abc", each=8), sequences_per_label=3, tokens_per_sequence=4)
    documents = read_labelled(config)
    found = label_tokens(documents, tokenizer, 16, config)
    assert found.sequences.shape == (18, 16), "three labels, two halves, three sequences of each"
    assert (found.sequences[:, 0] == tokenizer.bos_token_id).all()
    encoded = dict(zip(map(tuple, tokenizer.encode(documents.texts)), zip(documents.label_ids, documents.held_out, strict=True), strict=True))
    for row, (sequence, length) in enumerate(zip(found.sequences, found.lengths, strict=True)):
        piece = tuple(sequence[1:length].tolist())
        of = [origin for text, origin in encoded.items() if any(text[start : start + len(piece)] == piece for start in range(0, len(text), 15))]
        assert (found.label_ids[row], found.held_out[row]) in of
        drawn = found.positions[found.rows == row]
        assert 1 <= drawn.min() <= drawn.max() < length, "neither BOS nor filling"
        assert len(set(drawn.tolist())) == len(drawn) == min(4, length - 1)


def test_the_same_seed_draws_the_same_tokens(written, tokenizer):
    config = written(some_documents())
    documents = read_labelled(config)
    one, again = (label_tokens(documents, tokenizer, 16, config) for _ in range(2))
    other = label_tokens(documents, tokenizer, 16, config.model_copy(update={"seed": 1, "tokens_per_sequence": 3}))
    assert np.array_equal(one.positions, again.positions)
    assert np.array_equal(one.sequences, again.sequences)
    assert not np.array_equal(one.positions, other.positions)
