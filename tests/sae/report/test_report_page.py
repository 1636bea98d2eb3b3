"""The report as a file: what it says, what it leaves out, and that nothing in it can break out of it."""

import base64
import hashlib
import re
from datetime import UTC, datetime

import pytest
from planted_records import HOSTILE, write_evaluation, write_store
from planted_run import write_dictionary

from sae.errors import CorruptObjectError, InputError
from sae.report.page import write_report
from sae.storage import Place

NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def page(run, token_texts):
    write_report(run, token_texts=token_texts, written=NOON)
    return run.get("report.html").decode()


def text_of(page):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


class TestWholeRun:
    def test_tells_what_was_done_on_what_and_when(self, page):
        text = text_of(page)
        assert "Two dictionaries of 4,096 features for blocks.0.mlp.hook_post" in text
        assert "Trained on 3,012,608 activations of deploy/subject, taken while it read 6,144,000 tokens" in text
        assert "20 November 2026, 12:00 UTC" in text
        assert "7 min 31 s" in text
        assert "3.00 GiB" in text

    def test_shows_each_number_with_its_interval(self, page):
        recovered = (4.61 - 3.22) / (4.61 - 3.18)
        assert f"{100 * recovered:.1f} % {100 * (recovered - 0.004):.1f} to {100 * (recovered + 0.003):.1f} %" in text_of(page)

    def test_explains_each_number(self, page):
        assert "(CE_zero − CE_spliced) / (CE_zero − CE_clean)" in text_of(page)

    def test_lists_resamplings_with_what_became_of_them(self, page):
        assert "relu 301,056 147 310 310 307 of 310 alive after 151,552 vectors" in text_of(page)

    def test_counts_dead_features_beside_the_density_histogram(self, page):
        assert "49 of 4,096 features (1.20 %) never fired on 130,048 tokens." in text_of(page)

    def test_names_no_missing_stage(self, page):
        assert 'class="absent"' not in page.replace('<noscript><p class="absent">', "")

    def test_is_the_same_bytes_for_the_same_run_and_time(self, run, page, token_texts):
        write_report(run, output_key="again.html", token_texts=token_texts, written=NOON)
        assert run.get("again.html").decode() == page

    def test_ids_are_unique_although_every_plot_brings_its_own(self, page):
        ids = re.findall(r'\sid="([^"]+)"', page)
        assert len(ids) == len(set(ids))
        assert {reference for reference in re.findall(r'xlink:href="#([^"]+)"', page)} <= set(ids)


class TestSafety:
    def test_asks_no_other_machine_for_anything(self, page):
        addresses = re.findall(r"""(?:src|href|action|url)\s*[=(]\s*["']?([^"'\s>)]+)""", page.replace("xlink:", ""))
        document = [address for address in addresses if not address.startswith(("#", "data:,", "data:;"))]
        assert [address for address in document if "/" in address and address != "x"] == []
        assert "@import" not in page

    def test_hostile_texts_make_no_element(self, page):
        assert "<img" not in page
        assert page.count("</script>") == 2
        assert HOSTILE not in page

    def test_the_policy_names_the_digest_of_the_only_script(self, page):
        script = re.search(r"<script>(.*)</script>", page, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)[1]
        assert policy.startswith(f"default-src 'none'; script-src 'sha256-{digest}';")


class TestUnfinishedRuns:
    def test_a_run_without_interpretation_says_so(self, tmp_path):
        run = Place(tmp_path)
        write_dictionary(run.child("dictionaries", "relu"), "relu", 0)
        write_evaluation(run, "relu", 0)
        write_report(run)
        text = text_of(run.get("report.html").decode())
        assert "Not interpreted: relu. `monosem interpret` does it" in text
        assert "No source was interpreted" in text
        assert "The store of activations is not in this run directory" in text
        assert "83.9 %" in text

    def test_a_run_without_evaluation_says_so(self, tmp_path):
        run = Place(tmp_path)
        write_dictionary(run.child("dictionaries", "relu"), "relu", 0)
        write_store(run)
        write_report(run)
        text = text_of(run.get("report.html").decode())
        assert "Not evaluated: relu." in text
        assert "Densities are measured by the evaluation" in text

    def test_an_evaluation_alone_makes_a_report(self, tmp_path):
        run = Place(tmp_path)
        write_evaluation(run, "topk", 1)
        write_report(run)
        assert "Not logged while training: topk." in text_of(run.get("report.html").decode())

    def test_an_empty_directory_is_the_callers_mistake(self, tmp_path):
        with pytest.raises(InputError, match="holds no dictionary, evaluation or interpretation"):
            write_report(Place(tmp_path))

    def test_a_damaged_log_is_named(self, tmp_path):
        run = Place(tmp_path)
        write_dictionary(run.child("dictionaries", "relu"), "relu", 0)
        run.put("dictionaries/relu/training.jsonl", b'{"step": 1')
        with pytest.raises(CorruptObjectError, match=r"training\.jsonl has the digest"):
            write_report(run)
        run.delete("dictionaries/relu/result.json")  # of an unfinished training nothing covers the log
        with pytest.raises(InputError, match=r"training\.jsonl, line 1 is not valid JSON"):
            write_report(run)
