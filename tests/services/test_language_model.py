"""The client of a language model: patient with an endpoint, short with a mistake, and never beyond its budget."""

import asyncio
import logging
import socket
import time

import pytest

from sae.errors import FailureError, InputError
from sae.interpretation.language_model.config import LanguageModelConfig, Prices, RequestLimits
from sae.interpretation.language_model.exchange import BudgetError, Request
from services import language_model
from services.language_model import KEY_VARIABLE, LanguageModel
from services.spending import Spending, Spent
from tests.servers.language_server import Answer, scripted_endpoint

SECRET = "sk-test-0123456789abcdef"
PRICES = Prices(prompt=1e6, reply=2e6)  # a dollar for a token sent, two for one got


class Told:
    """Everything a monitor was told."""

    def __init__(self):
        self.counters = {}

    def add(self, name, amount, **labels):
        key = (name, *labels.values())
        self.counters[key] = self.counters.get(key, 0) + amount

    def set(self, name, value, **labels): ...

    def progress(self, stage, done, total): ...


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, SECRET)
    monkeypatch.setattr(language_model, "FIRST_WAIT_SECONDS", 0.001)


def question(number=0, reply_tokens=20):
    return Request("detection", ({"role": "user", "content": f"question {number}"},), reply_tokens, 5)


def ask(rule, *requests, max_cost=None, prices=PRICES, limits=None, monitor=None, spent=None, probe=False):
    """The endpoint, and what became of each request: a reply or an exception."""

    async def run(url):
        config = LanguageModelConfig(model="m", base_url=url, max_cost=max_cost, prices=prices, limits=limits or RequestLimits())
        async with LanguageModel(config, Spending(max_cost, prices, spent or Spent()), monitor) as model:
            if probe:
                await model.probe()
            return await asyncio.gather(*(model.ask(each) for each in requests), return_exceptions=True)

    with scripted_endpoint(rule) as endpoint:
        return endpoint, asyncio.run(run(endpoint.url))


def test_a_request_is_asked_as_configured_and_its_reply_counted():
    told = Told()
    answer = Answer("[1]", usage={"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10})
    endpoint, [reply] = ask(lambda _: answer, question(), monitor=told)
    [asked] = endpoint.questions
    assert asked.body == {"model": "m", "messages": [{"role": "user", "content": "question 0"}], "max_tokens": 20, "temperature": 0.0}
    assert asked.headers["authorization"] == f"Bearer {SECRET}"
    assert (reply.outcome, reply.text, reply.prompt_tokens, reply.reply_tokens) == ("answered", "[1]", 7, 3)
    assert reply.cost == pytest.approx(7 * 1 + 3 * 2)
    assert told.counters == {
        ("monosem_llm_tokens_total", "sent"): 7,
        ("monosem_llm_tokens_total", "received"): 3,
        ("monosem_llm_cost_dollars_total",): pytest.approx(13),
    }


def test_a_storm_of_429_is_waited_out_and_every_question_answered():
    storm = {number: Answer("slow down", status=429, headers={"retry-after": "0.05"}) for number in range(30)}
    told = Told()
    endpoint, replies = ask(
        lambda asked: storm.get(asked.number, "yes"), *map(question, range(10)), monitor=told, limits=RequestLimits(concurrency=4, attempts=20)
    )
    assert [reply.text for reply in replies] == ["yes"] * 10
    assert len(endpoint.questions) == 40
    assert endpoint.most_at_once <= 4
    assert told.counters["monosem_llm_errors_total", "rate_limited"] == 30
    assert {reply.prompt_tokens for reply in replies} == {2}  # what was turned away was not paid for


def test_retry_after_holds_everybody_back():
    began = []

    def rule(asked):
        began.append(time.monotonic())
        return Answer("wait", status=503, headers={"retry-after": "0.4"}) if asked.number == 0 else "yes"

    ask(rule, *map(question, range(3)), limits=RequestLimits(concurrency=1))
    assert min(began[1:]) - began[0] >= 0.39


def test_too_long_a_wait_ends_the_run_at_once():
    _, [error] = ask(lambda _: Answer("", status=429, headers={"retry-after": "7200"}), question())
    assert isinstance(error, FailureError)
    assert "asks to wait 7200 s" in str(error)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Answer("oops", status=500), "server"),
        (Answer("{", cut=True), "connection"),
        (Answer(body=b'{"id": "x", "choices": [{"mess'), "malformed"),
        (Answer(body=b"<html>hello</html>", headers={"content-type": "text/html"}), "malformed"),
    ],
)
def test_what_may_pass_is_tried_again(answer, kind):
    told = Told()
    endpoint, [reply] = ask(lambda asked: "yes" if asked.number else answer, question(), monitor=told)
    assert reply.text == "yes"
    assert len(endpoint.questions) == 2
    assert told.counters["monosem_llm_errors_total", kind] == 1
    # An answer that was lost on its way may have been paid for: it counts as much as it may have been.
    assert reply.reply_tokens == 1 + (20 if kind != "server" else 0)


def test_a_reply_that_does_not_come_is_a_time_out():
    def rule(asked):
        if asked.number == 0:
            time.sleep(1)
        return "yes"

    told = Told()
    _, [reply] = ask(rule, question(), monitor=told, limits=RequestLimits(timeout_seconds=0.3))
    assert reply.text == "yes"
    assert told.counters["monosem_llm_errors_total", "timeout"] == 1


def test_patience_ends():
    endpoint, [error] = ask(lambda _: Answer("down for repair", status=502), question(), limits=RequestLimits(attempts=3))
    assert isinstance(error, FailureError)
    assert "failed 3 times (HTTP 502: down for repair): run the same command again" in str(error)
    assert len(endpoint.questions) == 3


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Answer(f"Incorrect API key provided: {SECRET}", status=401), rf"refused the key in {KEY_VARIABLE} \(HTTP 401\)"),
        (Answer("not yours", status=403), rf"refused the key in {KEY_VARIABLE} \(HTTP 403\)"),
        (Answer("The model m does not exist", status=404), "does not know the model.*The model m does not exist"),
        (Answer("model m is not served here", status=400), "rejects requests for the model 'm'.*not served here"),
        (Answer("no money", status=402), "the account has nothing left"),
        (Answer(body=b'{"error": {"message": "quota", "code": "insufficient_quota"}}', status=429), "the account has nothing left"),
        (Answer("down", status=503), "does not answer"),
    ],
)
def test_mistakes_are_known_before_any_question_is_sent(answer, message):
    with pytest.raises(InputError, match=message) as caught, scripted_endpoint(lambda _: answer):
        ask(lambda _: answer, question(), probe=True)
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_endpoint_that_is_not_there_is_one_line():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"

    async def run():
        async with LanguageModel(LanguageModelConfig(model="m", base_url=url), Spending(None, Prices(), Spent())) as model:
            await model.probe()

    with pytest.raises(InputError, match=rf"{url} does not answer \(.*\): check base_url, or start it"):
        asyncio.run(run())


def test_without_a_key_openai_is_not_asked_and_a_local_endpoint_is(monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(InputError, match=f"set {KEY_VARIABLE}"):
        LanguageModel(LanguageModelConfig(model="m"), Spending(None, Prices(), Spent()))
    _, [reply] = ask(lambda _: "yes", question())
    assert reply.text == "yes"
    with pytest.raises(InputError, match=f"refused requests without a key .set {KEY_VARIABLE}"):
        ask(lambda _: Answer("", status=401), question(), probe=True)


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (Answer("This model's maximum context length is 8192 tokens", status=400), "too_long"),
        (Answer("request exceeds the available context size", status=400), "too_long"),
        (Answer("", status=413), "too_long"),
        (Answer("temperature is not supported", status=400), "rejected"),
        (Answer("cut in the mid", finish_reason="length"), "truncated"),
        (Answer("", finish_reason="content_filter"), "refused"),
        (Answer(""), "empty"),
        (Answer(body=b'{"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": []}'), "empty"),
    ],
)
def test_what_concerns_one_question_only_is_an_outcome(answer, outcome):
    endpoint, [reply] = ask(lambda _: answer, question())
    assert reply.outcome == outcome
    assert len(endpoint.questions) == 1


def test_an_endpoint_that_rejects_everything_is_not_asked_on():
    _, results = ask(lambda _: Answer("no such field", status=400), *map(question, range(40)), limits=RequestLimits(concurrency=1))
    assert isinstance(results[-1], FailureError)
    assert "rejected 20 requests in a row (the last: HTTP 400: no such field)" in str(
        next(each for each in results if isinstance(each, FailureError))
    )


def test_the_budget_is_never_passed_whatever_is_under_way():
    usage = {"prompt_tokens": 60, "completion_tokens": 20, "total_tokens": 80}
    dearest = Spending(None, PRICES, Spent()).most(question())
    assert dearest == (len("question 0") + 64) * 1 + 20 * 2
    spent = Spent(cost=30.0)
    endpoint, results = ask(lambda _: Answer("yes", usage=usage), *map(question, range(10)), max_cost=500, spent=spent)
    answered = [each for each in results if not isinstance(each, Exception)]
    assert len(answered) == len(endpoint.questions) == 4  # 30 + 4 * 100 + 114 > 500
    assert {type(each) for each in results if isinstance(each, Exception)} == {BudgetError}
    assert spent.cost == pytest.approx(430)
    assert spent.requests == 4


def test_replies_that_do_not_say_their_tokens_count_at_their_most():
    body = b'{"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "yes"}}]}'  # noqa: E501
    _, [reply] = ask(lambda _: Answer(body=body), question())
    assert (reply.prompt_tokens, reply.reply_tokens) == (len("question 0") + 64, 20)


def test_requests_are_spaced():
    began = time.monotonic()
    ask(lambda _: "yes", *map(question, range(5)), limits=RequestLimits(requests_per_minute=60 / 0.1))
    assert time.monotonic() - began >= 0.4
    began = time.monotonic()
    per_request = question().expected_prompt_tokens + 20
    ask(lambda _: "yes", *map(question, range(5)), limits=RequestLimits(tokens_per_minute=per_request * 60 / 0.1))
    assert time.monotonic() - began >= 0.4


def test_as_many_are_under_way_as_allowed():
    def rule(_):
        time.sleep(0.05)
        return "yes"

    endpoint, _ = ask(rule, *map(question, range(12)), limits=RequestLimits(concurrency=3))
    assert endpoint.most_at_once == 3


def test_the_key_is_in_no_log_line(caplog):
    with caplog.at_level(logging.DEBUG):
        ask(lambda asked: Answer(f"bad {SECRET}", status=500) if asked.number == 0 else "yes", question())
        _, [error] = ask(lambda _: Answer(f"bad {SECRET}", status=500), question(), limits=RequestLimits(attempts=1))
    assert SECRET not in caplog.text
    assert SECRET not in str(error)
