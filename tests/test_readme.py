"""README and docs agree with the code: blocks run, commands and keys exist, links lead somewhere, tables are those of the report."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from jobs.commands import VERBS
from jobs.loading import load_config
from sae.report.glossary import glossary_markdown

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_RUN = "<!-- not run: "


def name(page):
    return str(page.relative_to(ROOT))


def blocks(page, language):
    """The code blocks of a page, less those that say why they are not run."""
    found = re.finditer(rf"(?m)^({re.escape(NOT_RUN)}[^\n]+\n)?```{language}\n(.*?)^```", page.read_text(), flags=re.DOTALL)
    return [block[2] for block in found if not block[1]]


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_bytes()) <= 10_000


def test_every_command_is_named_in_the_readme():
    [line] = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("Commands: ")]
    assert {word for part in line.split("`")[1:4:2] for word in part.split()} == set(VERBS)


def test_the_table_of_numbers_is_the_reports_glossary():
    page = (ROOT / "docs/metrics.md").read_text()
    assert glossary_markdown().strip() in page, "run `make docs-pages`"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files_that_exist(page):
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert missing == []


def test_every_page_is_in_the_map_of_the_readme():
    readme = (ROOT / "README.md").read_text()
    assert [name(page) for page in PAGES[1:] if f"]({name(page)})" not in readme] == []


def test_the_python_page_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict = {}
    found = blocks(ROOT / "docs/python.md", "python")
    assert len(found) >= 3
    for block in found:
        exec(block, names)
    assert names["features"].shape == (3, 4, 64)
    assert names["reconstruction"].shape == (3, 4, 16)


def lines_of_commands():
    for page in PAGES:
        for block in blocks(page, "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                if line.strip() and not line.lstrip().startswith("#"):
                    yield pytest.param(line, id=f"{name(page)}: {line.split('#')[0].strip()[:60]}")


def targets():
    return set(re.findall(r"(?m)^([a-z][a-z-]+):", (ROOT / "Makefile").read_text()))


@pytest.mark.parametrize("line", [*lines_of_commands()])
def test_shell_lines_name_commands_keys_and_files_that_exist(line):
    words = shlex.split(line, comments=True)
    words = words[next((at for at, word in enumerate(words) if "=" not in word), 0) :]  # variables of the environment come first
    if words[0] == "make":
        wanted = words[1 : words.index(">")] if ">" in words else words[1:]
        assert {word for word in wanted if "=" not in word} <= targets()
    if words[0].endswith("monosem"):
        check_command(words[1:])


def check_command(words):
    command, *rest = words
    if command == "submit":
        command, *rest = rest
    assert command in VERBS
    files = [word for before, word in zip(["", *rest], rest, strict=False) if before == "-c" and "/" in word]
    assert [file for file in files if not (ROOT / file).exists()] == []
    overrides = [word for word in rest if re.match(r"[a-z_]+(\.[A-Za-z0-9_-]+)*=", word)]
    if "…" not in words and command in ("run", "train", "harvest", "evaluate", "interpret", "concepts", "plan"):
        load_config(str(ROOT / files[0]) if files else None, overrides if files else ["output=run", *overrides])
