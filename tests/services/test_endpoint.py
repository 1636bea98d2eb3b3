"""One request over HTTP: bounded in time and size, no redirect followed, no header shown, and every trouble has a judgement."""

import asyncio
import gzip
import json
import logging
import re
import socket
import threading
import time

import pytest

from sae.errors import InputError
from sae.interpretation.language_model.config import KEY_VARIABLE, LanguageModelConfig, Prices, RequestLimits
from sae.interpretation.language_model.exchange import Request
from services import endpoint as endpoint_module
from services import language_model
from services.endpoint import Endpoint
from services.language_model import LanguageModel
from services.spending import Spending, Spent
from tests.servers.language_server import Answer, scripted_endpoint

KEY = "sk-test-0123456789abcdef"
GOOD = json.dumps({"choices": [{"message": {"content": "[1]"}, "finish_reason": "stop"}]}).encode()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(language_model, "FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setenv(KEY_VARIABLE, KEY)


def post(url, timeout=20.0):
    async def run():
        endpoint = Endpoint(url, KEY, timeout)
        try:
            return await endpoint.post({"model": "m", "messages": []})
        finally:
            await endpoint.close()

    return asyncio.run(run())


def asked(url, requests=(), **limits):
    """What became of some requests, after a probe."""

    async def run():
        config = LanguageModelConfig(model="m", base_url=url, limits=RequestLimits(**limits))
        async with LanguageModel(config, Spending(None, Prices(), Spent())) as model:
            await model.probe()
            return await asyncio.gather(*map(model.ask, requests), return_exceptions=True)

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("answer", "verdict", "words"),
    [
        (Answer(body=gzip.compress(GOOD), headers={"content-encoding": "gzip"}), "answered", r"\[1\]"),
        (Answer(body=GOOD, headers={"content-encoding": "gzip"}), "unreadable", "damaged"),
        (Answer(body=GOOD, headers={"content-encoding": "br"}), "unreadable", "compressed"),
        (Answer(body=b" " * 3000 + GOOD), "unreadable", "more than"),
        (Answer(body=gzip.compress(b" " * 100_000 + GOOD), headers={"content-encoding": "gzip"}), "unreadable", "more than"),
        (Answer(status=307, headers={"location": "http://127.0.0.1:9/elsewhere"}), "not_there", "HTTP 307"),
        (Answer("{", cut=True), "broken", "connection"),
    ],
)
def test_a_body_is_bounded_and_no_redirect_is_followed(answer, verdict, words, monkeypatch):
    monkeypatch.setattr(endpoint_module, "MOST_REPLY_BYTES", 2000)
    with scripted_endpoint(lambda _: answer) as endpoint:
        found = post(endpoint.url)
    assert found.verdict == verdict
    assert re.search(words, found.text)


def test_a_reply_that_drips_is_a_time_out():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip():
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
                for _ in range(50):
                    time.sleep(0.02)
                    try:
                        connection.sendall(b" ")
                    except OSError:
                        return

        threading.Thread(target=drip, daemon=True).start()
        found = post(f"http://127.0.0.1:{server.getsockname()[1]}/v1", timeout=0.2)
    assert (found.verdict, found.reply_tokens) == ("timed_out", None)


@pytest.mark.parametrize("host", ["127.0.0.1:1", f"{'a' * 80}.example", "no-such-host.invalid"])
def test_a_host_that_is_not_there_is_asked_three_times(host, monkeypatch):
    attempts = []
    post = Endpoint.post
    monkeypatch.setattr(Endpoint, "post", lambda self, arguments: attempts.append(1) or post(self, arguments))
    with pytest.raises(InputError, match=r"does not answer \(.+\): check base_url, or start it"):
        asked(f"http://{host}/v1")
    assert len(attempts) == 3


def test_a_proxy_that_cannot_be_used_is_one_line(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "gopher://user:hunter2@127.0.0.1:1")
    with pytest.raises(InputError, match="check HTTPS_PROXY") as refused:
        asked("http://127.0.0.1:1/v1")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("body", [b'{"choices": "none"}', b'{"choices": []}', b"<html>Welcome</html>"])
def test_what_is_no_chat_endpoint_is_known_before_a_question_is_sent(body):
    with scripted_endpoint(lambda _: Answer(body=body)) as endpoint, pytest.raises(InputError, match="check base_url|which usually ends in /v1"):
        asked(endpoint.url)


@pytest.mark.parametrize("answer", [Answer("oops", status=500), Answer(body=b'{"choices": "none"}')])
def test_a_question_that_always_fails_does_not_end_the_others(answer):
    requests = [Request("detection", ({"role": "user", "content": f"question {number}"},), 20, 5) for number in range(4)]
    with scripted_endpoint(lambda question: answer if question.last.endswith("2") else "yes") as endpoint:
        replies = asked(endpoint.url, requests, attempts=4)
    assert [reply.outcome for reply in replies] == ["answered", "answered", "failed", "answered"]


def test_a_server_that_repeats_the_key_has_it_in_no_log_line_and_no_reply(caplog):
    def rule(question):
        return Answer(f"I was sent {KEY} and {KEY.encode().hex()}", headers={"x-echo": f"Bearer {KEY}"})

    request = Request("detection", ({"role": "user", "content": "question"},), 20, 5)
    with caplog.at_level(logging.DEBUG), scripted_endpoint(rule) as endpoint:
        [reply] = asked(endpoint.url, [request])
    assert reply.outcome == "answered"
    assert reply.text == "I was sent … and …"
    assert KEY not in caplog.text


@pytest.mark.parametrize("value", [f"{KEY}\n", f"{KEY}\r\n", f" {KEY} "])
def test_a_key_with_a_line_break_at_its_end_is_used_without_it(value, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, value)
    with scripted_endpoint(lambda _: "ready") as endpoint:
        asked(endpoint.url)
    assert endpoint.questions[0].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    "url", ["http://user:hunter2@127.0.0.1/v1", "user:hunter2@host/v1", "http://host/v1?key=hunter2", "http:/hunter2@host", "ftp://hunter2"]
)
def test_an_address_of_the_environment_is_checked_and_not_repeated(url, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    with pytest.raises(InputError, match=r"^OPENAI_BASE_URL ") as refused:
        LanguageModel(LanguageModelConfig(model="m"), Spending(None, Prices(), Spent()))
    assert "hunter2" not in str(refused.value)
