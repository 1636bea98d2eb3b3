"""YAML as configurations use it: plain values, keys that are text, everything bounded, and mistakes named by line and column.

Scalars are read as YAML 1.2 reads them: `yes`, `on`, `010`, `1:30` and dates are text, and `2e-3` is a number. Numbers may have underscores
between digits. Refused are tags, keys that occur twice, aliases that expand without end, nesting without end, and further documents.
"""

import os
import re
import stat
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from sae.errors import InputError
from sae.storage import Place

MAX_BYTES = 2**20
MAX_DEPTH = 32
MAX_NODES = 50_000  # after aliases are expanded; 256 dictionaries with every key set are 10,000
MAX_DIGITS = 40
READY = "`monosem init FILE` writes one; a ready one is `quickstart`"
_INT, _FLOAT, _MERGE = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float", "tag:yaml.org,2002:merge"
_STR, _MAP, _SEQ = "tag:yaml.org,2002:str", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def read_yaml(path: str) -> dict[str, Any]:
    """Read the keys and values of a YAML file.

    Args:
        path: a regular file, or a URL.

    Raises:
        InputError: it cannot be read, is not YAML of keys and values, or is too large.
    """
    value = parse_yaml(_text_at(path), path)
    if not isinstance(value, dict):
        found = "nothing" if value is None else f"a {type(value).__name__}"
        raise InputError(f"{path} holds {found}, expected keys and values ({READY})")
    return value


def parse_yaml(text: str, where: str) -> Any:
    """Parse one YAML document.

    Args:
        text: the document.
        where: file or key, for messages.

    Raises:
        InputError: it is not YAML, or holds what this module refuses.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, {}, where)
        return _own(loader.construct_document(node))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise InputError(f"{where}{place} is not YAML: {_one_line(error.problem or error.context or 'unreadable')}") from None
    except yaml.YAMLError as error:  # a character that YAML does not allow
        raise InputError(f"{where} is not YAML: {_one_line(str(error))}") from None
    except RecursionError:
        raise InputError(f"{where} is nested more than {MAX_DEPTH} levels deep: write it flatter") from None


def has_comment(text: str) -> bool:
    """Say whether YAML would leave out a part of `text` as a comment."""
    try:
        spans = [(token.start_mark.index, token.end_mark.index) for token in yaml.scan(text) if isinstance(token, yaml.ScalarToken)]
    except yaml.YAMLError:
        return False
    return any(mark == "#" and not any(start <= index < end for start, end in spans) for index, mark in enumerate(text))


class _Loader(yaml.SafeLoader):
    """Composes and constructs plain values only."""

    depth = nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuse nesting and numbers of nodes that no configuration has, while they are read."""
        self.depth += 1
        self.nodes += 1
        if self.depth > MAX_DEPTH:
            raise _error(f"nested more than {MAX_DEPTH} levels deep: write it flatter", self.peek_event().start_mark)
        if self.nodes > MAX_NODES:
            raise _error(f"more than {MAX_NODES:,} values: a configuration has fewer", self.peek_event().start_mark)
        event = self.peek_event()
        if getattr(event, "tag", None) not in (None, "!"):
            raise _error(f"the tag {str(event.tag)[:60]!r}: tags are not read, leave it out", event.start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Refuse keys that are no text or occur twice; a key of its own may override a merged one."""
        seen: dict[str, Any] = {}
        for key, _ in node.value:
            if key.tag == _MERGE:
                continue
            if key.tag != _STR:
                raise _error("a key that is no text: quote it", key.start_mark)
            if key.value in seen:
                raise _error(f"the key {key.value[:60]!r} occurs twice, first in line {seen[key.value].line + 1}: remove one", key.start_mark)
            seen[key.value] = key.start_mark
        self.flatten_mapping(node)
        return {self.construct_object(key, deep=True): self.construct_object(value, deep=True) for key, value in node.value}

    def construct_text(self, node: yaml.ScalarNode) -> str:
        """The text of a scalar, without characters that no text has."""
        if found := _UNPRINTABLE.search(node.value):
            raise _error(f"the character U+{ord(found[0]):04X}, a control character or half of one: remove it", node.start_mark)
        return str(node.value)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """A finite number."""
        digits = node.value.replace("_", "")
        if len(digits) > MAX_DIGITS:
            raise _error(f"a number of {len(digits):,} digits: the longest have {MAX_DIGITS}", node.start_mark)
        number = int(digits) if node.tag == _INT else float(digits)
        if abs(number) == float("inf"):
            raise _error(f"the number {digits}, which is too large: the largest is 1.7e308", node.start_mark)
        return number


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    (_INT, r"[-+]?(0|[1-9][0-9]*(_[0-9]+)*)", list("-+0123456789")),
    (_FLOAT, r"[-+]?([0-9]+(_[0-9]+)*(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    (_MERGE, r"<<", ["<"]),
):
    # A leading zero is no octal number here: `010` stays text, which a key of numbers refuses.
    _Loader.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$" if _tag != _FLOAT else rf"^(?!0[0-9_]+$)(?:{_pattern})$"), _first)
_Loader.yaml_constructors = {
    "tag:yaml.org,2002:null": yaml.SafeLoader.construct_yaml_null,
    "tag:yaml.org,2002:bool": lambda loader, node: node.value.lower() == "true",
    _INT: _Loader.construct_number,
    _FLOAT: _Loader.construct_number,
    _STR: _Loader.construct_text,
    _SEQ: lambda loader, node: loader.construct_sequence(node, deep=True),
    _MAP: lambda loader, node: loader.construct_mapping(node),
    None: yaml.SafeLoader.construct_undefined,
}


def _text_at(path: str) -> str:
    try:
        data = _bytes_of_url(path) if "://" in path else _bytes_of_file(path)
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"cannot read the configuration {path!r}: {reason} ({READY})") from None
    if len(data) > MAX_BYTES:
        raise InputError(f"{path} has more than {MAX_BYTES:,} bytes: it is no configuration ({READY})")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start:,}): save it in this encoding") from None


def _bytes_of_file(path: str) -> bytes:
    name = Path(os.path.expanduser(path))
    found = name.stat()
    if not stat.S_ISREG(found.st_mode):
        kind = "a directory" if stat.S_ISDIR(found.st_mode) else "no regular file"
        raise OSError(0, f"it is {kind}: give a YAML file")
    with name.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def _bytes_of_url(url: str) -> bytes:
    place, _, key = url.rpartition("/")
    return Place(place).get(key, 0, MAX_BYTES + 1)


def _count(node: yaml.Node, counted: dict[int, int], where: str) -> int:
    """Values below a node after its aliases are expanded."""
    if id(node) in counted:
        if counted[id(node)] == 0:
            raise _error("an alias of what it stands in: it would never end", node.start_mark)
        return counted[id(node)]
    counted[id(node)] = 0
    below = [each for pair in node.value for each in pair] if isinstance(node, yaml.MappingNode) else node.value
    total = 1 + sum(_count(each, counted, where) for each in below) if isinstance(node, yaml.CollectionNode) else 1
    if total > MAX_NODES:
        raise _error(f"aliases that expand to more than {MAX_NODES:,} values: write them out", node.start_mark)
    counted[id(node)] = total
    return total


def _own(value: Any) -> Any:
    """A copy in which nothing is shared: an override must not change two places at once."""
    if isinstance(value, dict):
        return {key: _own(each) for key, each in value.items()}
    return [_own(each) for each in value] if isinstance(value, list) else value


def _error(problem: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]
