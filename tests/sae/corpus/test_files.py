"""Files of text: a closed list of formats, each read strictly; what is no text is refused by name, and never trained on."""

import contextlib
import gzip
import io
import json
import os
import random
import re
import socket

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae.corpus.files import file_texts, find_files
from sae.corpus.formats import FileFormat, decompressed, json_records, plain_texts, recognise
from sae.corpus.sources import CorpusConfig, check_sources, documents
from sae.errors import InputError

ONE_LINE = json.dumps({"text": "words"}) + "\n"


def config_of(*sources, field="text"):
    return CorpusConfig(text=[str(source) for source in sources], text_field=field)


def texts(*sources, field="text"):
    return [text for _, text in documents(config_of(*sources, field=field))]


def zstd(data):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", b"one\r\ntwo", ["one\ntwo"]),
        ("README", b"\xef\xbb\xbfmarked", ["marked"]),
        ("a.txt.gz", gzip.compress(b"one\n", mtime=0), ["one\n"]),
        ("a.txt.zst", zstd(b"one\n") + zstd(b"two\n"), ["one\ntwo\n"]),
        ("a.txt", b"one\n<|endoftext|>\ntwo <|endoftext|> still two\n <|endoftext|>\r\n", ["one\n", "two <|endoftext|> still two\n", ""]),
        ("a.jsonl", b"\xef\xbb\xbf" + ONE_LINE.encode() + b"\r\n" + ONE_LINE.encode(), ["words", "words"]),
        ("a.jsonl", b'{"text": "\\ud83d\\ude00 \xe2\x80\xa8"}', ["\U0001f600 \u2028"]),
        ("a.ndjson", ONE_LINE.encode() * 2, ["words", "words"]),
        ("a.json", ONE_LINE.encode() * 2, ["words", "words"]),
        ("a.json.gz", gzip.compress(ONE_LINE.encode(), mtime=0) * 2, ["words", "words"]),
        ("a.jsonl.zst", zstd(ONE_LINE.encode()), ["words"]),
        ("A.JSONL.GZ", gzip.compress(ONE_LINE.encode(), mtime=0), ["words"]),
        ("a.jsonl", b"", []),
    ],
)
def test_text_is_read_as_it_was_written(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    check_sources(config_of(tmp_path / name))
    assert texts(tmp_path / name) == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        *(
            (f"a{suffix}", b"a,b\n1,2\n", f"is not read as text: '{suffix}'")
            for suffix in (".csv", ".tsv", ".arrow", ".bin", ".pdf", ".docx", ".xyz")
        ),
        *(
            (f"a{suffix}", b"\x80\x04", "is not read as text")
            for suffix in (".pt", ".pkl", ".safetensors", ".npy", ".tar", ".zip", ".xz", ".7z", ".bz2")
        ),
        ("a.tar.gz", gzip.compress(b"x", mtime=0), "is not read as text: '.tar'"),
        ("a.parquet.gz", gzip.compress(b"PAR1", mtime=0), "is not read as text: '.parquet'"),
        ("a.txt", gzip.compress(b"words", mtime=0), r"Its content is gzip\. Give it the suffix \.gz"),
        ("a.jsonl", zstd(b"words"), "Its content is zstd"),
        ("a.txt", b"%PDF-1.7", "Its content is PDF"),
        ("a.md", b"PK\x03\x04docx", "a ZIP archive"),
        ("a.txt", "words".encode("utf-16"), "UTF-16.*iconv"),
        ("a.txt", "words".encode("utf-16-le"), r"a\.txt:1 has a NUL byte at offset 1"),
        ("a.txt", b"one\n\xe9t\xe9 \n", r"a\.txt:2 is not UTF-8: byte 0xe9 at offset 0 of the line.*iconv"),
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer.*git lfs pull"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
        ("a.jsonl.gz", ONE_LINE.encode(), r"it is named as gzip, but"),
        ("a.jsonl.zst", gzip.compress(b"x", mtime=0), "it is named as zstd, but its content is not. It is gzip"),
        ("a.txt.gz", gzip.compress(b"words" * 100, mtime=0)[:-9], r"cannot read .*a\.txt\.gz"),
        ("a.txt.zst", zstd(bytes(range(256)))[:-9], r"cannot read .*a\.txt\.zst"),
        ("a.jsonl", ONE_LINE.encode() + b'{"text": "\xe9"}', r"a\.jsonl:2 is not UTF-8: byte 0xe9 at offset 10"),
        ("a.jsonl", b'{"text": "\\ud83d"}', r"a\.jsonl:1 is not valid JSON \(half of a surrogate pair"),
        ("a.jsonl", b'{"text": "x", "n": NaN}', r"a\.jsonl:1 is not valid JSON \(NaN"),
        ("a.jsonl", b'{"text": ' + b"[" * 100_000, r"a\.jsonl:1 is not valid JSON \(nested"),
        ("a.json", b'[\n{"text": "x"}]', r"a\.json:1 is not valid JSON.*jq -c"),
        ("a.json", b'[{"text": "x"}]', r"a\.json:1 holds a list.*jq -c"),
        ("a.jsonl", b'{"text": 3}\n', r"a\.jsonl:1 has no text in field 'text' but a value of type int"),
        ("a.jsonl", b'{"text": ["a", "b"]}\n', "a value of type list"),
        ("a.jsonl", b'{"body": "x"}\n{"body": null}\n', r"no text in field 'text' but the fields body\. Set corpus\.text_field"),
    ],
)
def test_what_is_no_text_is_refused_in_one_line_that_names_the_place(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        texts(tmp_path / name)
    assert len(str(error.value).splitlines()) == 1
    assert len(str(error.value)) < 700


def test_a_bomb_is_refused_before_it_expands(tmp_path, monkeypatch):
    monkeypatch.setattr("sae.storage.expansion.FREE_BYTES", 2**20)
    bombs = {
        "a.jsonl.gz": gzip.compress(b"\n" * 5_000_000, mtime=0),
        "b.txt.gz": gzip.compress(b"a" * 5_000_000, mtime=0),
        "c.txt.zst": zstd(b"a" * 5_000_000),
    }
    for name, content in bombs.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=rf"{name} expands more than 300 times"):
            texts(tmp_path / name)


def test_a_line_without_end_is_refused_with_its_number(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(ONE_LINE.encode() + b" " * (66 * 2**20))
    with pytest.raises(InputError, match=r"a\.jsonl:2 has more than 64 MiB in one line"):
        texts(tmp_path / "a.jsonl")


def test_a_record_without_text_is_skipped_and_one_policy_holds_for_jsonl_and_parquet(tmp_path):
    records = [{"meta": {"body": "one"}}, {"meta": {"body": None}}, {"meta": None}, {"other": 1}, {"meta": {"body": "two"}}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    pq.write_table(pa.Table.from_pylist([{"meta": record.get("meta")} for record in records]), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        assert texts(tmp_path / name, field="meta.body") == ["one", "", "", "", "two"]
    (tmp_path / "b.jsonl").write_text('{"meta.body": "dotted"}\n')
    pq.write_table(pa.table({"meta.body": ["dotted"]}), tmp_path / "b.parquet")
    for name in ("b.jsonl", "b.parquet"):
        assert texts(tmp_path / name, field="meta.body") == ["dotted"]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array(["a", None], pa.large_string()), ["a", ""]),
        (pa.array(["a", "a"]).dictionary_encode(), ["a", "a"]),
        (pa.array([1, 2]), "holds int64, expected strings"),
        (pa.array([b"a"]), "holds binary, expected strings"),
        (pa.array([["a"]]), "holds list<.*, expected strings"),
        (pa.array([{"x": "a"}]), "holds struct<.*, expected strings"),
        (pa.nulls(2, pa.string()), "has only nulls in column 'text'"),
        (pa.nulls(2), "holds null, expected strings"),
        (pa.StringArray.from_buffers(2, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"a\xe9")), "cannot read .*UTF"),
    ],
)
def test_a_parquet_column_holds_strings_or_is_refused_by_its_type(tmp_path, column, expected):
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    if isinstance(expected, list):
        assert texts(tmp_path / "a.parquet") == expected
        return
    with pytest.raises(InputError, match=expected):
        texts(tmp_path / "a.parquet")


def test_two_columns_of_one_name_are_refused(tmp_path):
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="has 2 columns of the name 'text'"):
        texts(tmp_path / "a.parquet")


def test_a_path_that_exists_is_taken_as_it_stands(tmp_path):
    for name in ("run[1]", "a*b", "what?"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(name)
        assert texts(tmp_path / name) == texts(tmp_path / name / "a.txt") == [name]
    assert texts(tmp_path / "*" / "a.txt") == ["a*b", "run[1]", "what?"]


def test_a_directory_is_read_without_hidden_files_and_each_of_its_directories_once(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "a.txt").write_text("a")
    (tmp_path / "inner" / "back").symlink_to(tmp_path)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "b.txt").write_text("b")
    (tmp_path / ".DS_Store").write_bytes(b"\0")
    assert texts(tmp_path) == ["a"]
    with pytest.raises(InputError, match="names that begin with a dot are left out"):
        texts(tmp_path / "**" / "*.md")


def test_a_glob_below_links_that_lead_back_ends(tmp_path):
    for name in ("a.txt", "one/a.txt", "one/two/a.txt", "one/two/b.md", "one/.hidden/a.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "one" / "back").symlink_to(tmp_path)
    (tmp_path / "one" / "again").symlink_to(tmp_path)
    for pattern, expected in {
        "**/*.txt": ["a.txt", "one/a.txt", "one/two/a.txt"],
        "**": ["a.txt", "one/a.txt", "one/two/a.txt", "one/two/b.md"],
        "o*/**/a.txt": ["one/a.txt", "one/two/a.txt"],
        "**/two/**/?.md": ["one/two/b.md"],
        "**/" * 40 + "*/" + "**/" * 40 + "*.md": ["one/two/b.md"],
        "one/*/*": ["one/two/a.txt", "one/two/b.md"],
    }.items():
        found = [path.relative_to(tmp_path).as_posix() for path, _ in find_files(str(tmp_path / pattern))]
        assert [name for name in found if not name.startswith(("one/back", "one/again"))] == expected


def test_files_that_are_no_text_in_a_directory_are_named(tmp_path):
    for name in ("data-00000-of-00001.arrow", "state.json", "picture.png", "a.txt"):
        (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(InputError, match=r"00001\.arrow is not read as text.*load_from_disk.*So are 1 more: picture\.png.*by a glob"):
        check_sources(config_of(tmp_path))


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "dangling.txt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.txt").symlink_to(tmp_path / "loop.txt")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s.txt"))
        for name, message in [("pipe", "pipe"), ("dangling", "No such file"), ("loop", "symbolic links"), ("s", "socket")]:
            with pytest.raises(InputError, match=message):
                texts(tmp_path / f"{name}.txt")
    with pytest.raises(InputError, match="pipe, socket or device"):
        texts("/dev/zero")


def test_a_name_that_is_not_utf8_and_a_url_are_one_line(tmp_path):
    (tmp_path / os.fsdecode(b"\xe9.txt")).write_text("x")
    with pytest.raises(InputError, match=r"the file name .*\\udce9\.txt is not UTF-8"):
        texts(tmp_path)
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "a\nb.txt").write_bytes(b"\xff")
    with pytest.raises(InputError, match=r"a\\nb\.txt:1 is not UTF-8"):
        texts(tmp_path / "inner")
    with pytest.raises(InputError, match="from local files"):
        texts("s3://bucket/a.jsonl")


def test_a_wrong_field_is_found_by_the_first_records(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"body": "x"}\n' * 1000 + "never reached")
    with pytest.raises(InputError, match="fields body"):
        check_sources(config_of(tmp_path / "a.jsonl"))
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="no column 'text' but body"):
        check_sources(config_of(tmp_path / "a.parquet"))


def test_a_line_with_a_key_twice_is_named_by_file_line_and_key(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"text": "one", "text": "another"}\n')
    with pytest.raises(InputError, match=r"a\.jsonl:2 is not valid JSON \(the key 'text' occurs more than once"):
        texts(tmp_path / "a.jsonl")


def test_a_long_text_that_many_rows_of_parquet_share_is_held_once(tmp_path):
    """Decoded row by row, 1 MB in 3,000 rows would take 1 GB for the first 1,024 of them, and then be tokenized as 3 GB of text."""
    text = random.Random(0).randbytes(2**19).hex()
    shared = pa.DictionaryArray.from_arrays(pa.array([0] * 3000, pa.int32()), pa.array([text]))
    for name, table, field in (
        ("flat", pa.table({"text": shared}), "text"),
        ("nested", pa.table({"meta": pa.StructArray.from_arrays([shared], ["body"])}), "meta.body"),
    ):
        path = tmp_path / f"{name}.parquet"
        pq.write_table(table, path, compression="zstd", dictionary_pagesize_limit=2**30, store_schema=False)
        assert path.stat().st_size < 2**20
        before = pa.total_allocated_bytes()
        rows = file_texts(path, recognise(path), field)
        assert next(rows) == (f"{path}:0", text)
        assert pa.total_allocated_bytes() - before < 16 * 2**20
        with pytest.raises(InputError, match=rf"{name}\.parquet expands more than 300 times"):
            list(rows)


@contextlib.contextmanager
def refused_or_not(message):
    try:
        yield
    except InputError as error:
        named = re.search(message, str(error))
    else:
        named = True
    assert named


@pytest.mark.fuzz
@given(st.binary() | st.text(alphabet='{}[]",:a1\\u d8\n\r\0é<|endoftext|>', max_size=80).map(str.encode))
def test_any_bytes_are_texts_that_can_be_stored_or_are_refused(data):
    for read in (plain_texts, json_records):
        with refused_or_not("^here"):
            for _, text in read(iter([data[:7], data[7:]]), "here"):
                json.dumps(text, ensure_ascii=False).encode()


@pytest.mark.fuzz
@given(st.binary(max_size=60), st.sampled_from(["gzip", "zstd"]), st.integers(0, 200), st.integers(0, 255))
def test_a_damaged_compressed_file_is_read_or_refused(data, compression, at, value):
    packed = bytearray(gzip.compress(data, mtime=0) if compression == "gzip" else zstd(data))
    packed[at % len(packed)] = value
    with refused_or_not("here"):
        list(decompressed(io.BytesIO(bytes(packed)), compression, "here"))


@pytest.fixture(scope="module")
def parquet_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("parquet") / "a.parquet"
    pq.write_table(pa.table({"text": ["one", None, "three" * 30], "n": [1, 2, 3]}), path)
    return path


@pytest.mark.fuzz
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4), st.integers(0, 40))
def test_a_damaged_parquet_file_is_read_or_refused(parquet_file, changes, cut):
    data = bytearray(parquet_file.read_bytes())
    for share, value in changes:
        data[4 + int(share * (len(data) - 4))] = value
    damaged = parquet_file.with_name("damaged.parquet")
    damaged.write_bytes(data[: len(data) - cut])
    with refused_or_not(r"damaged\.parquet"):
        list(file_texts(damaged, recognise(damaged), "text"))


def test_formats_are_told_by_both_suffixes(tmp_path):
    for name, expected in {"b.jsonl.gz": ("json_lines", "gzip"), "c.md": ("plain", None)}.items():
        (tmp_path / name).write_bytes(b"")
        assert [found for _, found in find_files(str(tmp_path / name))] == [FileFormat(*expected)]
