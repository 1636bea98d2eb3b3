"""Documents come from text, JSONL and Parquet in a stated order; what is wrong is named."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sae.corpus.sources import CorpusConfig, documents
from sae.errors import InputError


def texts(*sources, field="text"):
    return [text for _, text in documents(CorpusConfig(text=list(sources), text_field=field))]


def test_text_files_are_documents_in_the_order_of_their_paths(tmp_path):
    for name in ("b.txt", "a.py"):
        (tmp_path / name).write_text(f"in {name}")
    assert texts(str(tmp_path)) == ["in a.py", "in b.txt"]
    assert texts(str(tmp_path / "*.txt")) == ["in b.txt"]


def test_jsonl_plain_and_compressed_holds_one_document_a_line(tmp_path):
    lines = "".join(json.dumps({"body": f"text {number}"}) + "\n" for number in range(3))
    (tmp_path / "a.jsonl").write_text(lines + "\n")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    assert texts(str(tmp_path / "*"), field="body") == [f"text {number}" for number in (0, 1, 2, 0, 1, 2)]


def test_parquet_holds_one_document_a_row(tmp_path):
    pq.write_table(pa.table({"text": ["one", None, "two"], "other": [1, 2, 3]}), tmp_path / "a.parquet")
    assert texts(str(tmp_path / "a.parquet")) == ["one", "", "two"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n{broken\n', r"a.jsonl:2 is not valid JSON"),
        ("a.jsonl", b"[1]\n", r"a.jsonl:1 holds a list"),
        ("a.jsonl", b'{"body": "x"}\n', r"no text in field 'text' but the fields body"),
        ("a.jsonl.gz", b"not gzip", r"cannot read .*a.jsonl.gz"),
        ("a.parquet", b"not parquet", r"cannot read .*a.parquet"),
    ],
)
def test_a_damaged_source_is_named_with_its_place(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        texts(str(tmp_path / name))


def test_a_path_that_matches_nothing_says_what_was_looked_for(tmp_path):
    with pytest.raises(InputError, match="no file matches .*nothing"):
        texts(str(tmp_path / "nothing" / "*.txt"))


def test_a_parquet_file_without_the_field_lists_its_columns(tmp_path):
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="no column 'text' but body"):
        texts(str(tmp_path / "a.parquet"))


def test_a_hub_dataset_without_a_network_is_one_line():
    with pytest.raises(InputError, match="cannot read the dataset 'hf:no-such/dataset'"):
        texts("hf:no-such/dataset")
