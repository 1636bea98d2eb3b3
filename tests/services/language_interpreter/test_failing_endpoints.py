"""What a failing endpoint says is no answer: it is asked again by the next run, and what it cost is written down before it is spent."""

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sae.errors import CorruptObjectError, FailureError, InputError, StorageError
from sae.interpretation.language_model.config import LanguageModelConfig, RequestLimits
from sae.interpretation.language_model.journal import ExplanationDirectory
from services.language_model import LanguageModel
from services.spending import Spending, Spent, read_spent
from tests import planted_words as planted
from tests.servers.language_server import Answer, scripted_endpoint
from tests.services.language_interpreter.explaining import PRICES, explain, rows, scores

BUSY = json.dumps({"error": {"code": 429, "message": "Rate limit exceeded"}}).encode()
FLAGGED = json.dumps({"error": {"message": "Input was flagged by moderation", "metadata": {"reasons": ["violence"]}}}).encode()


def test_an_error_that_comes_with_status_200_is_waited_out_like_any_other(output):
    def rule(question):
        return Answer(body=BUSY) if question.number % 3 == 1 else planted.honest(question)

    _, summaries = explain(output, rule, sources=["topk"], max_features=2)
    assert summaries["topk"]["language_model"]["num_unread"] == 0
    assert all(score["median"] > 0.99 for score in scores(summaries["topk"]).values())


@pytest.mark.parametrize(
    "failure",
    [
        Answer(body=b'{"choices": []}'),
        Answer(text="no such field", status=400),
        Answer(text="", finish_reason="stop"),
        Answer(text="This model's maximum context length is 4 tokens", status=400),
    ],
    ids=["no choices", "rejected", "no text", "too long"],
)
def test_questions_that_the_endpoint_failed_at_are_asked_again_by_the_next_run_and_no_others(output, failure):
    def rule(question):
        return failure if question.purpose == "fuzzing" else planted.honest(question)

    _, before = explain(output, rule, sources=["topk"], max_features=2)
    assert before["topk"]["language_model"]["num_unread"] > 0
    assert {row["fuzzing_accuracy"] for row in rows(output)} == {None}
    assert all(row["detection_accuracy"] > 0.99 for row in rows(output))
    endpoint, after = explain(output, planted.honest, sources=["topk"], max_features=2)
    assert {question.purpose for question in endpoint.questions} == {"probe", "fuzzing"}
    assert after["topk"]["language_model"]["num_unread"] == 0
    assert all(row["fuzzing_accuracy"] > 0.99 for row in rows(output))
    assert not output.child("topk").list("llm")
    assert explain(output, planted.honest, sources=["topk"], max_features=2)[0].questions == []


def test_questions_to_ask_again_are_kept_over_a_run_that_ends_early(output):
    refusing = lambda question: Answer("no such field", status=400) if question.purpose == "fuzzing" else planted.honest(question)  # noqa: E731
    gone = lambda question: Answer("gone", status=503) if question.purpose == "fuzzing" else planted.honest(question)  # noqa: E731
    explain(output, refusing, sources=["topk"], max_features=1)
    with pytest.raises(FailureError):
        explain(output, gone, sources=["topk"], max_features=1, limits=RequestLimits(attempts=1))
    assert rows(output)[0]["detection_accuracy"] > 0.99  # the table of the first run stands meanwhile
    endpoint, _ = explain(output, planted.honest, sources=["topk"], max_features=1)
    assert {question.purpose for question in endpoint.questions} == {"probe", "fuzzing"}
    assert rows(output)[0]["fuzzing_accuracy"] > 0.99


@pytest.mark.parametrize("text", ["<think>Say [1, 1], or", "[{list}] at first. Then again, piece 2 may be"])
def test_labels_of_a_reply_that_was_cut_off_are_drafts(output, text):
    def rule(question):
        if question.purpose not in ("detection", "fuzzing"):
            return planted.honest(question)
        return Answer(text.format(list=", ".join("1" * len(question.pieces))), finish_reason="length")

    _, summaries = explain(output, rule, sources=["topk"], max_features=1)
    counts = summaries["topk"]["language_model"]["outcomes"]
    assert counts["detection"].keys() == counts["fuzzing"].keys() == {"truncated"}


def test_half_a_sentence_is_no_explanation(output):
    half = Answer("EXPLANATION: It fires on the w", finish_reason="length")
    _, summaries = explain(output, lambda question: half if question.purpose == "explain" else planted.honest(question), sources=["topk"])
    assert summaries["topk"]["language_model"]["explainers"]["highlights"]["not_explained"] == {"truncated": 6}


def test_half_of_an_explain_question_has_fewer_examples(output):
    def rule(question):
        lines = len(question.block("pieces")) if question.purpose == "explain" else 0
        return Answer("no way", status=422) if lines > 11 else planted.honest(question)

    endpoint, _ = explain(output, rule, sources=["topk"], max_features=1, shown_examples=1000)  # there are 22
    assert [len(question.block("pieces")) for question in endpoint.asked("explain")] == [22, 11]


def test_what_fails_at_the_end_does_not_replace_what_ended_the_work(output, monkeypatch):
    def failing(self):
        raise StorageError("the disk is full")

    monkeypatch.setattr(ExplanationDirectory, "compact", failing)
    with pytest.raises(InputError, match="does not know the model"):
        explain(output, lambda _: Answer("no such model", status=404))
    with pytest.raises(StorageError, match="the disk is full"):
        explain(output, planted.honest, max_features=1)


def test_an_answer_is_written_before_another_question_is_sent(output):
    kept = []

    def rule(question):
        if question.purpose == "detection" and not kept:
            kept.append([json.loads(output.child("topk").get(key)) for key in output.child("topk").list("llm")])
        return planted.honest(question)

    explain(output, rule, sources=["topk"], max_features=1)
    journals = [journal for found in kept for journal in found]  # several detection questions may come at once, each before the first was noted
    assert journals
    assert all("explain" in {reply["purpose"] for reply in journal["replies"].values()} for journal in journals)


def test_no_more_is_reserved_than_the_budget_has(output):
    reserved = []

    def rule(question):
        found = output.get_sealed("llm_spent.json")
        reserved.append(found["cost"] + found["reserved"])
        return planted.honest(question)

    explain(output, rule, sources=["topk"], prices=PRICES, max_cost=0.05)
    assert max(reserved) <= 0.05 * (1 + 1e-9)


def test_what_the_model_said_is_final_even_if_nothing_can_be_read_in_it(output):
    explain(output, lambda question: "I would rather not." if question.purpose == "explain" else planted.honest(question), sources=["topk"])
    assert explain(output, planted.honest, sources=["topk"])[0].questions == []


def test_a_moderated_text_is_an_outcome_of_its_question(output):
    def rule(question):
        return Answer(status=403, body=FLAGGED) if question.number == 3 else planted.honest(question)

    _, summaries = explain(output, rule, sources=["topk"], max_features=2)
    counts = summaries["topk"]["language_model"]["outcomes"].values()
    assert sum(each.get("refused", 0) for each in counts) == 1
    assert summaries["topk"]["language_model"]["complete"]


def test_requests_that_are_all_forbidden_end_as_a_key_that_may_not(output):
    def rule(question):
        return planted.honest(question) if question.purpose in ("probe", "explain") else Answer(text="Forbidden", status=403)

    with pytest.raises(InputError, match=r"refused the key in OPENAI_API_KEY \(HTTP 403\)"):
        explain(output, rule)


def test_a_rejected_question_is_halved_once_whatever_the_words(output):
    def rule(question):
        lines = len(question.block("pieces")) if question.purpose in ("detection", "fuzzing", "simulation") else 0
        return Answer("`inputs` tokens + `max_new_tokens` must be <= 1024", status=422) if lines > 3 else planted.honest(question)

    _, summaries = explain(output, rule, sources=["topk"], max_features=2, examples_per_request=6)
    assert summaries["topk"]["language_model"]["num_unread"] == 0
    unknown_words = Answer("no way", status=422)

    def stubborn(question):
        return unknown_words if question.purpose == "detection" else planted.honest(question)

    endpoint, _ = explain(output, stubborn, sources=["neurons"], max_features=1, examples_per_request=1000)
    assert len(endpoint.asked("detection")) == 3  # whole, and its two halves


def test_a_prompt_of_which_the_server_read_a_part_is_not_scored_as_read(output):
    def rule(question):
        text = planted.honest(question)
        return Answer(text, usage={"prompt_tokens": 30, "completion_tokens": 5}) if question.purpose == "detection" else text

    _, summaries = explain(output, rule, sources=["topk"], max_features=1)
    found = summaries["topk"]["language_model"]
    assert found["outcomes"]["detection"].keys() == {"cut"}
    assert found["explainers"]["highlights"]["scores"]["detection_accuracy"]["median"] is None
    assert found["num_unread"] > 0


def test_half_an_emoji_in_a_reply_is_shown_as_a_mark_and_the_run_goes_on(output):
    half = json.dumps({"choices": [{"message": {"content": "EXPLANATION: half an emoji w07 \ud83d"}, "finish_reason": "stop"}]}).encode()

    def rule(question):
        return Answer(body=half) if question.purpose == "explain" else planted.honest(question)

    explain(output, rule, sources=["topk"], max_features=1, scorers=["detection"])
    assert [row["explanation"] for row in rows(output)] == ["half an emoji w07 \N{REPLACEMENT CHARACTER}"]


def test_money_is_written_down_before_it_is_spent(output):
    dearest = []

    def rule(question):
        found = output.get_sealed("llm_spent.json")
        dearest.append((found["cost"] + found["reserved"], question))
        return planted.honest(question)

    explain(output, rule, sources=["topk"], max_features=2, prices=PRICES)
    spent = output.get_sealed("llm_spent.json")
    assert spent["reserved"] == 0.0
    assert min(amount for amount, _ in dearest) > 0
    assert dearest[-1][0] >= spent["cost"]  # the last one was written down when it came, whatever had been settled


ENDED_BY = """
import sys
sys.path[:0] = [sys.argv[1]]
from services.ending import Ending
from tests.services.language_interpreter.explaining import PRICES, explain
from tests import planted_words as planted
from sae.storage import Place
import os, time
def rule(question):
    if question.number == 12:
        os.kill(os.getpid(), int(sys.argv[3]))
        time.sleep(20)
    open(sys.argv[4], "a").write(question.last + "\\0")
    return planted.honest(question)
with Ending() as ending:
    try:
        explain(Place(sys.argv[2]), rule, sources=["topk"], prices=PRICES, limits={"concurrency": 1})
    except KeyboardInterrupt:
        ending.say(ending.end.message)
        os._exit(ending.end.code)
"""


@pytest.mark.parametrize(("number", "code"), [(9, -9), (15, 143)])
def test_a_run_that_is_ended_by_a_signal_loses_no_answer_and_no_cost(output, tmp_path_factory, number, code):
    root, answered = Path(__file__).parents[3], tmp_path_factory.mktemp("asked") / "asked"
    command = [sys.executable, "-c", ENDED_BY, root, output.url, str(number), str(answered)]
    began = time.monotonic()
    done = subprocess.run(command, env=os.environ, timeout=120, check=False, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert time.monotonic() - began < 15
    assert done.stderr.count("\n") <= 1
    spent = read_spent(output, "llm_spent.json").cost
    assert spent > 0
    endpoint, _ = explain(output, planted.honest, sources=["topk"], prices=PRICES)
    paid = set(answered.read_text().split("\0")[1:-2])  # the probe's and the last answer, which may be on its way, left out
    assert len(paid) >= 9
    assert not paid & {question.last for question in endpoint.questions[1:]}
    assert output.get_sealed("llm_spent.json")["cost"] > spent


def parquet_bytes(table):
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue()


def test_a_changed_journal_or_account_is_refused(output):
    def rule(question):
        return Answer("gone", status=503) if question.number >= 9 else planted.honest(question)

    with pytest.raises(FailureError):
        explain(output, rule, sources=["topk"], prices=PRICES, limits=RequestLimits(attempts=1))
    place, [key, *_] = output.child("topk"), output.child("topk").list("llm")
    written = place.get(key)
    place.put(key, written.replace(b'"outcome": "answered"', b'"outcome": "refused"', 1))
    with pytest.raises(CorruptObjectError, match=key):
        explain(output, planted.honest, sources=["topk"])
    place.put(key, written)
    table = place.get("llm_replies.parquet")
    changed = pq.read_table(pa.BufferReader(table)).slice(1)
    place.put("llm_replies.parquet", parquet_bytes(changed))
    with pytest.raises(CorruptObjectError, match=r"llm_replies\.parquet is not what llm_plan\.json names"):
        explain(output, planted.honest, sources=["topk"])
    place.put("llm_replies.parquet", table)
    place.put("llm_explanations.parquet", place.get("llm_explanations.parquet")[:-20])
    with pytest.raises(CorruptObjectError, match=r"llm_explanations\.parquet is damaged"):
        explain(output, planted.honest, sources=["topk"])
    place.delete("llm_explanations.parquet")
    output.put_json("llm_spent.json", output.get_json("llm_spent.json") | {"cost": 0.0})
    with pytest.raises(CorruptObjectError, match=r"llm_spent\.json"):
        explain(output, planted.honest, sources=["topk"])


def test_a_busy_server_is_waited_for_before_the_first_question():
    answers = iter([Answer("Loading model", status=503), Answer("slow down", status=429)])
    with scripted_endpoint(lambda question: next(answers, "ready")) as endpoint:

        async def probe():
            async with LanguageModel(LanguageModelConfig(model="m", base_url=endpoint.url), Spending(None, PRICES, Spent())) as model:
                await model.probe()

        asyncio.run(probe())
    assert len(endpoint.questions) == 3
