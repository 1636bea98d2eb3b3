"""A chat endpoint that answers by rule: a real HTTP server, so that headers, statuses, broken connections and slowness are real, too."""

import contextlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Answer:
    """What a rule answers where a text alone does not say it: status, headers, a body as it is, a connection cut short."""

    text: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    finish_reason: str = "stop"
    usage: dict[str, int] | None = None
    cut: bool = False


@dataclass
class Question:
    """A request as a rule sees it."""

    body: dict[str, Any]
    number: int
    headers: dict[str, str]

    @property
    def system(self) -> str:
        return self.body["messages"][0]["content"]

    @property
    def last(self) -> str:
        return self.body["messages"][-1]["content"]

    @property
    def purpose(self) -> str:
        """Which prompt it is."""
        if "EXPLANATION:" in self.system:
            return "explain"
        marks = {
            "simulation": "write how strongly",
            "detection": "fires on any token of it",
            "fuzzing": "whether the marked",
            "logits": "numbered tokens. For",
        }
        return next((name for name, words in marks.items() if words in self.system), "probe")

    def block(self, name: str) -> list[str]:
        """The lines between the last pair of a name's tags."""
        return re.findall(rf"<{name}-([0-9a-f]{{12}})>\n(.*?)\n</{name}-\1>", self.last, re.DOTALL)[-1][1].split("\n")

    @property
    def explanation(self) -> str:
        return self.block("sentence")[0]

    @property
    def pieces(self) -> list[str]:
        """The numbered lines, without their numbers."""
        return [line.partition(": ")[2] for line in self.block("tokens" if self.purpose == "logits" else "pieces")]


Rule = Callable[[Question], str | Answer]


class ScriptedEndpoint:
    """What the server was asked, and where it is.

    Attributes:
        url: for the client.
        questions: all that came, the probes included.
        most_at_once: requests that were under way together.
    """

    def __init__(self, rule: Rule) -> None:
        self.rule, self.questions, self.most_at_once = rule, list[Question](), 0
        self._lock, self._under_way = threading.Lock(), 0

    def asked(self, purpose: str) -> list[Question]:
        return [question for question in self.questions if question.purpose == purpose]

    def take(self, body: dict[str, Any], headers: dict[str, str]) -> Answer:
        with self._lock:
            question = Question(body, len(self.questions), headers)
            self.questions.append(question)
            self._under_way += 1
            self.most_at_once = max(self.most_at_once, self._under_way)
        try:
            answer = self.rule(question)
        finally:
            with self._lock:
                self._under_way -= 1
        return Answer(answer) if isinstance(answer, str) else answer


@contextlib.contextmanager
def scripted_endpoint(rule: Rule) -> Iterator[ScriptedEndpoint]:
    """A server on loopback for as long as the context lasts."""
    endpoint = ScriptedEndpoint(rule)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            answer = endpoint.take(body, {name.lower(): value for name, value in self.headers.items()})
            data = answer.body if answer.body is not None else json.dumps(completion(body, answer)).encode()
            self.send_response(answer.status)
            for name, value in {"content-type": "application/json", "content-length": str(len(data) + 100 * answer.cut), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)
            if answer.cut:
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    endpoint.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()


def completion(body: dict[str, Any], answer: Answer) -> dict[str, Any]:
    if answer.status != 200:
        return {"error": {"message": answer.text, "type": "error", "code": None}}
    sent, got = sum(len(message["content"].split()) for message in body["messages"]), len(answer.text.split())
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [{"index": 0, "message": {"role": "assistant", "content": answer.text}, "finish_reason": answer.finish_reason}],
        "usage": answer.usage or {"prompt_tokens": sent, "completion_tokens": got, "total_tokens": sent + got},
    }
