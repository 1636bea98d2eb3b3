"""YAML of configurations: plain values, bounded, and mistakes named by file, line and column."""

import json
import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.loading import load_config
from jobs.yaml_text import MAX_NODES, parse_yaml, read_yaml
from sae.errors import ConfigError, InputError

BOMB = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 9)
)


def test_scalars_are_what_they_look_like():
    text = "{a: 0, b: -3_000_000, c: 2e-3, d: 1., e: .5, f: 1.5E+3, g: true, h: False, i: ~, j: null, k: , l: 'x', m: \"\\u00e9\"}"
    assert list(parse_yaml(text, "f").values()) == [0, -3000000, 0.002, 1.0, 0.5, 1500.0, True, False, None, None, None, "x", "é"]
    for plain in (
        "010",
        "0x10",
        "1__0",
        "_1",
        "yes",
        "no",
        "on",
        "off",
        "y",
        "12:30:45",
        "2024-01-01",
        ".nan",
        ".inf",
        "1e",
        "0b1",
        "0o7",
        "nan",
        "=",
    ):
        assert parse_yaml(f"a: {plain}", "f") == {"a": plain}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", r"^f, line 3, column 1 is not YAML: the key 'a' occurs twice, first in line 1"),
        ("a: {b: 1, b: 1}", "line 1, column 11 .*occurs twice"),
        ("a:\n  b: !!python/object/apply:os.system [id]", "line 2, column 6 .*tags are not read"),
        ("a: !!binary aGk=", "tags are not read"),
        ("a: !!set {x}", "tags are not read"),
        ("1: x", "a key that is no text"),
        ("[a]: x", "a key that is no text"),
        ("null: x", "a key that is no text"),
        ("? {a: 1}\n: x", "a key that is no text"),
        ("a: " + "[" * 5000, "nested more than 32 levels"),
        ("{a: " * 5000, "nested more than 32 levels"),
        ("- " * 5000, "nested more than 32 levels"),
        ("a: " + "1" * 5000, "a number of 5,000 digits"),
        ("a: 1e999", "too large"),
        ("a: &x [*x]", "would never end"),
        ("a: &x {b: *x}", "would never end"),
        ("a: *x", "undefined alias 'x'"),
        ("a: 1\n---\nb: 2", "line 2, column 1 .*another document"),
        ('a: "\\0"', r"U\+0000"),
        ('a: "\\ud800"', r"U\+D800"),
        ("a: \x07", "not YAML"),
        ("a: [", "line 1, column 5 is not YAML"),
        ("a: 'x", "not YAML"),
        ("\ta: 1", "not YAML"),
        ("%YAML 9.0\n---\na: 1", "not YAML"),
        ("a: [" + "1," * MAX_NODES + "]", "more than 50,000 values"),
    ],
)
def test_what_no_configuration_holds_is_refused_with_its_place(text, message):
    with pytest.raises(InputError, match=message) as caught:
        parse_yaml(text, "f")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("where", ["corpus: {text: *a8}", "harvest: {seed: *a8}", "nonsense: *a8", "training: {dictionaries: *a8}", ""])
def test_an_alias_bomb_is_refused_at_once(tmp_path, where):
    (tmp_path / "bomb.yaml").write_text(f"{BOMB}output: x\n{where}\n")
    begun = time.process_time()
    with pytest.raises(InputError, match="line 5, column 5 .*expand to more than 50,000 values"):
        load_config(str(tmp_path / "bomb.yaml"), [])
    assert time.process_time() - begun < 2


def test_a_small_alias_is_a_copy_and_merges_work():
    value = parse_yaml("a: &a {x: 1}\nb: *a\nc: {<<: *a, x: 2, y: 3}\nd: {<<: *a}", "f")
    assert value == {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 2, "y": 3}, "d": {"x": 1}}
    assert value["a"] is not value["b"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"output: \xff", r"is not UTF-8 \(byte 8\)"),
        ("output: x".encode("utf-16"), "is not UTF-8"),
        (b"#" * (2**20 + 1), "has more than 1,048,576 bytes"),
        (b"", "holds nothing"),
        (b"- a", "holds a list"),
        (b"text", "holds a str"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path, data, message):
    (tmp_path / "run.yaml").write_bytes(data)
    with pytest.raises(InputError, match=message):
        load_config(str(tmp_path / "run.yaml"), [])


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path):
    (tmp_path / "run.yaml").write_bytes(b"\xef\xbb\xbfoutput: x\r\nstore: y # why\r\n")
    assert read_yaml(str(tmp_path / "run.yaml")) == {"output": "x", "store": "y"}


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    for path in (tmp_path / "pipe.yaml", tmp_path, "/dev/zero", tmp_path / "none.yaml", f"{tmp_path}/a\x00b", tmp_path / ("x" * 300)):
        with pytest.raises(InputError, match="^cannot read the configuration") as caught:
            read_yaml(str(path))
        assert str(caught.value).isprintable()


def test_a_configuration_is_read_from_a_url(tmp_path):
    (tmp_path / "run.yaml").write_text("output: x")
    assert read_yaml(f"file://{tmp_path}/run.yaml") == {"output": "x"}
    (tmp_path / "large.yaml").write_bytes(b"#" * 2**21)
    with pytest.raises(InputError, match="has more than"):
        read_yaml(f"file://{tmp_path}/large.yaml")


@pytest.mark.fuzz
@given(st.text(max_size=80) | st.text(alphabet="abc01.:-?,[]{}#&*!|>'\"%@`<~ \n\t_\\ue", max_size=80))
def test_any_text_is_plain_values_or_refused_in_one_line(text):
    value, message = None, ""
    try:
        value = parse_yaml(text, "f")
    except InputError as error:
        message = str(error)
    assert message.isprintable()
    assert parse_yaml(json.dumps(value, ensure_ascii=False), "f") == value


@pytest.mark.fuzz
@given(st.binary(max_size=200))
def test_any_file_is_a_configuration_or_refused_in_one_line(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(data)
    message = ""
    try:
        load_config(str(path), [])
    except (InputError, ConfigError) as error:
        message = str(error)
    assert message.isprintable()
