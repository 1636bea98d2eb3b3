"""Text that people read is plain: the first line of a docstring is an imperative or a noun phrase, and words with a plain substitute are rare."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for package in ("sae", "services", "jobs", "deploy") for path in (ROOT / package).rglob("*.py"))
FRAGMENT = re.compile(r"(What|Which|Of|How|Whether|Who|Whoever|Whose)\b")
# A word, its plain substitute, and how often it may still be used: the numbers only become smaller.
PLAIN_WORDS = {
    "mend": ("fix", 0),
    "foretell": ("predict", 2),
    "dear": ("expensive", 0),
    "nobody": ("no one, or the passive", 14),
    "whoever": ("anyone who, or the passive", 25),
    "litter": ("unused files", 45),
    "crew": ("worker group", 22),
    "beside": ("next to, concurrently with", 62),
    "told": ("receives, is given", 60),
    "goes on": ("continues", 15),
    "lies at": ("is at", 2),
}


def docstrings():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (text := ast.get_docstring(node)):
                yield path.relative_to(ROOT), getattr(node, "name", ""), text


def test_no_docstring_begins_with_a_fragment():
    fragments = [f"{path}: {name}: {text.splitlines()[0]}" for path, name, text in docstrings() if FRAGMENT.match(text)]
    assert fragments == []


def test_words_with_a_plain_substitute_become_rarer():
    text = "\n".join(path.read_text() for path in SOURCES)
    found = {word: len(re.findall(rf"\b{word}\b", text, re.IGNORECASE)) for word in PLAIN_WORDS}
    assert {word: (count, PLAIN_WORDS[word]) for word, count in found.items() if count > PLAIN_WORDS[word][1]} == {}
