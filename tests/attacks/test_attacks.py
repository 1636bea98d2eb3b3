"""Damaged and hostile inputs before every command that reads them: refused in one line, or the same results; never a traceback, crash or hang."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sae.storage import Place, sha256_hex
from tests.altered import read, sealed_again
from tests.attacks.digests import Chain
from tests.attacks.outcomes import judge

ROOT = Path(__file__).parents[2]
SAMPLE = 60


@pytest.mark.timeout(400)
def test_a_sample_of_the_attacks_ends_well(tmp_path):
    """`make attacks` runs thousands. In a process of its own, which forks: a native crash is seen as one, and nothing of Ray is in it."""
    lines = tmp_path / "outcomes.jsonl"
    arguments = ["--sample", str(SAMPLE), "--seed", "5", "--most", "2", "--lines", str(lines), "--processes", "1"]
    process = subprocess.run([sys.executable, "-m", "tests.attacks", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=380, check=False)
    found = [json.loads(line) for line in lines.read_text().splitlines()]
    assert process.returncode == 0, process.stdout + process.stderr[-2000:]
    assert len(found) == SAMPLE
    assert len({each["command"] for each in found}) >= 15
    assert sum(each["what"] == "refused" for each in found) > SAMPLE / 3, "the attacks do not reach what is read"


def test_digests_are_made_to_agree_up_to_the_last_record(tmp_path):
    """Otherwise a refusal would only say that the attacker left a digest as it was."""
    place = Place(tmp_path)
    place.put("table.parquet", b"rows")
    place.put_sealed("summary.json", {"tables": {"table.parquet": sha256_hex(b"rows")}})
    place.put_sealed("comparison.json", {"of": read(place, "summary.json")["digest"]})
    chain = Chain(tmp_path)
    place.put("table.parquet", b"other")
    chain.reseal(tmp_path / "table.parquet")
    assert place.get_sealed("summary.json") == {"tables": {"table.parquet": sha256_hex(b"other")}}
    assert place.get_sealed("comparison.json") == {"of": read(place, "summary.json")["digest"]}
    chain = Chain(tmp_path)
    sealed_again(place, "summary.json", {"tables": {}})
    chain.reseal(tmp_path / "summary.json")
    assert place.get_sealed("comparison.json") == {"of": read(place, "summary.json")["digest"]}


@pytest.mark.parametrize(
    ("ended", "what"),
    [
        ({"code": 0, "results": {"a": "1"}}, "the same"),
        ({"code": 0, "results": {"a": "2"}}, "other results (a)"),
        ({"code": 2, "message": "monosem: it is damaged", "said": "monosem: it is damaged"}, "refused"),
        ({"code": 1, "message": "monosem: internal error, KeyError: 'x'", "said": "monosem: internal error, KeyError: 'x'"}, "internal error"),
        ({"code": 2, "said": "Traceback (most recent call last):"}, "traceback"),
        ({"code": 2}, "no message"),
    ],
)
def test_only_equal_results_and_a_refusal_in_one_line_are_good(ended, what):
    whole = {"said": "", "message": "", "printed": "", "results": {}} | ended
    assert judge(whole, set(), {"a": "1"}, deleted=False) == what
