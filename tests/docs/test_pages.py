"""The pages of docs/ that repeat the code say what the code declares now."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = runpy.run_path(str(ROOT / "deploy/pages.py"))


@pytest.mark.parametrize("name", SOURCE["PAGES"])
def test_a_page_is_what_the_code_declares(name):
    assert (ROOT / "docs" / name).read_text() == SOURCE["PAGES"][name](), "run `make docs-pages`"


def test_every_key_of_the_configuration_has_a_row():
    keys = {line.strip() for line in (ROOT / "tests/jobs/keys.txt").read_text().splitlines() if line.strip() and not line.startswith("#")}
    rows = {line.split("`")[1] for line in (ROOT / "docs/configuration.md").read_text().splitlines() if line.startswith("| `")}
    assert rows == keys


def test_every_page_is_in_the_navigation_of_the_site():
    named = re.findall(r"(?m)^ +- .+: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text())
    pages = [*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")]
    assert sorted(named) == sorted(str(page.relative_to(ROOT)) for page in pages)


def test_a_type_is_written_without_bounds_and_modules():
    from typing import Annotated, Literal, Optional

    type_name = SOURCE["type_name"]
    assert type_name(Optional[Annotated[int, "ge 0"]]) == "int or None"  # noqa: UP045
    assert type_name(dict[Literal["a", "b"], list[Path]]) == "dict['a' or 'b', list[Path]]"
