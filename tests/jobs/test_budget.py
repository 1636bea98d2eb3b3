"""`monosem interpret --dry-run` and `--max-cost`: money is counted before it is spent."""

import pytest

from jobs import stages
from jobs.cli import main
from jobs.loading import load_config
from sae.storage import Place
from tests import planted_words as planted
from tests.servers.language_server import scripted_endpoint
from tests.sessions import HERE

MODEL = "interpretation.language_model.model=some-model"
PRICES = "interpretation.language_model.prices={prompt: 1.5, reply: 6}"


@pytest.fixture
def run(tmp_path):
    for name in ("topk", "neurons"):
        planted.write_source(Place(tmp_path).child("interpretation", name), range(7, 10))
    return tmp_path


def test_a_dry_run_says_requests_tokens_and_money_and_changes_nothing(run, capsys):
    before = sorted(run.rglob("*"))
    assert main(["interpret", "--dry-run", "--max-cost", "2.5", f"output={run}", MODEL, PRICES]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split("  ")[0] == "source"
    assert [line.split()[0] for line in shown[1:4]] == ["neurons", "topk", "all"]
    sources, total = [[figure.replace(",", "") for figure in line.split()[1:]] for line in shown[1:3]], shown[3].split()[1:]
    assert [sum(int(row[column]) for row in sources) for column in range(2)] == [int(total[0]), int(total[1])] == [6, int(total[1])]
    assert 0 < float(total[4].strip("$")) < float(total[5].strip("$"))
    assert "nothing was sent" in shown[4]
    assert "more than 2.5 dollars" in shown[5]
    assert sorted(run.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dry-run"], "interpretation.language_model is null"),
        (["--max-cost", "3"], "interpretation.language_model is null"),
        (["--max-cost", "3", MODEL], "max_cost needs prices"),
        (["--max-cost", "0", MODEL, PRICES], "max_cost"),
        (["--dry-run", MODEL, "output=/nowhere/at/all"], "holds no finished source"),
    ],
)
def test_mistakes_are_one_line(run, capsys, arguments, message):
    assert main(["interpret", f"output={run}", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_sources_are_explained_in_words_once_they_are_interpreted(run, monkeypatch):
    monkeypatch.setattr(stages, "interpret", lambda *arguments, **others: {"topk": {}, "neurons": {}})  # they lie there, finished
    with scripted_endpoint(lambda _: "EXPLANATION: some word") as endpoint:
        settings = [MODEL, f"interpretation.language_model.base_url={endpoint.url}", "interpretation.language_model.max_features=1"]
        summaries = stages.interpret_stage(load_config(None, [f"output={run}", *settings]), HERE)
    assert {name: summary["language_model"]["num_done"] for name, summary in summaries.items()} == {"topk": 1, "neurons": 1}
    assert (run / "interpretation" / "topk" / "llm_explanations.parquet").exists()
