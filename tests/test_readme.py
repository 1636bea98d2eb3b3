"""What the README says of numbers is what the report says of them."""

from pathlib import Path

from sae.report.glossary import glossary_markdown

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_its_table_of_numbers_is_the_reports_glossary():
    assert glossary_markdown().strip() in README, "replace the table under 'Every number of the report' by what glossary_markdown() returns"


def test_every_verb_of_the_command_line_is_named():
    from jobs.cli import VERBS

    [line] = [line for line in README.splitlines() if line.startswith("Verbs: ")]
    assert {word for part in line.split("`")[1:4:2] for word in part.split()} == set(VERBS)
