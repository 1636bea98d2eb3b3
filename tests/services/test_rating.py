"""Rating over HTTP: the journey of a rater, and what is refused from everybody else; with a real server, over a socket."""

import functools
import http.client
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from planted_run import HOSTILE, VOCABULARY, write_run, write_vocabulary
from running_browser import RunningBrowser

from sae.rating.deck import DeckConfig, make_deck
from sae.rating.records import KeptRating
from sae.storage import Place
from services.browser.rating import MAX_REQUEST_BYTES, rating_app
from services.browser.server import Listening

ROOT = Path(__file__).parents[2]
ANSWER = {"card": 0, "interpretation": "the word “of”", "confidence": 3, "activations": 4, "logits": 2, "specificity": 3, "seconds": 12.5}


def with_deck(run, surroundings, *, deck):
    return rating_app(run, deck, surroundings)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    directory = tmp_path_factory.mktemp("planted")
    return directory, make_deck(write_run(Place(directory), num_features=12), VOCABULARY, DeckConfig(features_per_source=3))


@pytest.fixture
def deck(planted):
    return planted[1]


@pytest.fixture
def run(planted, tmp_path):
    return Place(shutil.copytree(planted[0], tmp_path / "planted"))


@pytest.fixture
def open_rating(run, deck):
    opened = []

    def open_at(place=run, **listening):
        opened.append(RunningBrowser(place, Listening(port=0, **listening), functools.partial(with_deck, deck=deck)))
        return opened[-1]

    yield open_at
    for each in opened:
        each.stop()


@pytest.fixture
def browser(open_rating):
    return open_rating()


def send(browser, answer=ANSWER, rater="anna", **headers):
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    headers = {"Origin": f"http://127.0.0.1:{browser.port}", "Content_Type": "application/json"} | headers
    return browser.ask(f"/ratings/{rater}", "POST", body=body, **{name: value for name, value in headers.items() if value is not None})


class TestJourney:
    def test_a_rater_reads_a_card_rates_it_and_goes_on_after_a_restart(self, run, deck, open_rating):
        first = open_rating()
        assert json.loads(first.ask("/ratings/anna")[2]) == {"cards": 12, "ratings": {}}
        assert json.loads(first.ask("/cards/0")[2]) == deck.shown(0)
        status, _, body = send(first)
        assert (status, json.loads(body)) == (201, {"card": 0, "points": 12.0})
        first.stop()
        second = open_rating()
        assert json.loads(second.ask("/ratings/anna")[2])["ratings"] == {"0": ANSWER}
        assert json.loads(second.ask("/ratings/ben")[2])["ratings"] == {}
        send(second, ANSWER | {"card": 1})
        kept = [KeptRating.parse(run.get_sealed(key)) for key in run.list("ratings/anna")]
        assert [(each.card, each.rater, each.deck, each.total) for each in kept] == [(card, "anna", deck.digest, 12.0) for card in (0, 1)]

    def test_words_are_kept_as_they_were_typed(self, run, browser):
        send(browser, ANSWER | {"interpretation": HOSTILE})
        assert KeptRating.parse(run.get_sealed("ratings/anna/000000.json")).interpretation == HOSTILE

    def test_a_run_in_an_object_store_is_rated_there(self, bucket, deck, open_rating):
        place = Place(f"{bucket}/rated")
        assert send(open_rating(place))[0] == 201
        assert place.list("ratings") == ["ratings/anna/000000.json"]

    def test_the_verb_draws_the_cards_once_and_serves_them(self, run):
        run.delete("ratings/deck.json")
        write_vocabulary(run)
        command = [sys.executable, "-m", "jobs", "rate", os.fspath(run.url), "--port", "0"]
        with subprocess.Popen([*command, "--features", "2"], cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
            lines = [process.stderr.readline() for _ in range(2)]
            assert "event=cards number=8 sources=neurons,random_directions,relu,topk seed=0" in lines[0]
            connection = http.client.HTTPConnection(lines[1].split("address=http://")[1].strip().strip("/"), timeout=20)
            connection.request("GET", "/")
            assert b"What do these features stand for?" in connection.getresponse().read()
            connection.close()
            process.terminate()
            assert process.wait(20) == 143
        done = subprocess.run([*command, "--features", "5"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "were drawn with features_per_source 2, not 5" in done.stderr


class TestBlindness:
    def test_nothing_but_cards_is_handed_out(self, browser):
        for path in (
            "/report.html",
            "/summary.json",
            "/interpretation/topk/summary.json",
            "/ratings/deck.json",
            "/ratings/../config.json",
            "/deck.json",
        ):
            assert browser.ask(path)[0] in (404, 405), path

    def test_no_card_and_no_page_names_a_source(self, browser):
        for path in ("/", *(f"/cards/{card}" for card in range(12))):
            text = browser.ask(path)[2].decode()
            assert not any(source in text for source in ("topk", "relu", "random_directions")), path

    @pytest.mark.parametrize("card", ["12", "-1", "1.5", "x", "99999999999999999999", "%00"])
    def test_a_card_that_is_not_there(self, browser, card):
        assert browser.ask(f"/cards/{card}")[0] == 404


class TestRefusals:
    @pytest.mark.parametrize("origin", [None, "null", "http://evil.example", "http://127.0.0.1.evil.example", "http://127.0.0.1:1", "http://[", ""])
    def test_another_site_cannot_send_ratings(self, run, browser, origin):
        assert send(browser, Origin=origin)[0] == 403
        assert run.list("ratings/anna") == []

    @pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
    def test_what_a_form_could_send_is_not_taken(self, run, browser, kind):
        assert send(browser, Content_Type=kind)[0] == 415
        assert run.list("ratings/anna") == []

    def test_a_name_that_points_here_is_not_enough(self, browser):
        assert send(browser, Host="evil.example", Origin="http://evil.example")[0] == 421

    def test_listening_for_others_the_origin_is_still_compared(self, open_rating):
        browser = open_rating(host="0.0.0.0", allowed_hosts=["rate.example"])
        assert send(browser, Host="rate.example", Origin="https://rate.example")[0] == 201  # behind a proxy that speaks TLS
        assert send(browser, Host="rate.example", Origin="https://evil.example")[0] == 403

    @pytest.mark.parametrize(
        ("answer", "says"),
        [(b"", "json"), (b"[]", "object"), (b"{" * 5000, "json"), (b'{"card": NaN}', "nan is not a number"),
         (ANSWER | {"confidence": 9}, "confidence"), (ANSWER | {"card": "0"}, "card"),
         (ANSWER | {"rater": "ben"}, "unknown key 'rater'"), ({"card": 0}, "missing key"), (ANSWER | {"interpretation": "x" * 2001}, "2000")],
    )  # fmt: skip
    def test_what_is_no_rating_is_refused_in_one_line(self, run, browser, answer, says):
        status, _, body = send(browser, answer)
        assert status == 422
        assert says in body.decode().lower()
        assert body.decode().count("\n") == 1
        assert run.list("ratings/anna") == []

    def test_a_lone_surrogate_breaks_nothing(self, run, browser):
        body = json.dumps(ANSWER).replace("the word", "\\ud800").encode()
        assert send(browser, body)[0] == 422
        assert run.list("ratings/anna") == []

    def test_a_body_too_long_is_not_read(self, browser):
        assert send(browser, b" " * (MAX_REQUEST_BYTES + 1))[0] == 413

    def test_a_card_or_grade_the_deck_does_not_have_is_a_conflict(self, browser):
        status, _, body = send(browser, ANSWER | {"card": 12})
        assert (status, body.decode()) == (409, "not kept: there is no card 12: the deck has 12\n")
        assert send(browser, ANSWER | {"logits": None})[0] == 409

    @pytest.mark.parametrize("rater", ["Anna", "..", "%2e%2e", "a%2fb", "deck.json", "a" * 41, "a%0a"])
    def test_a_raters_name_is_no_path(self, run, browser, rater):
        before = run.list()
        assert send(browser, rater=rater)[0] in (400, 404, 405)
        assert run.list() == before

    def test_a_damaged_rating_is_no_silent_loss_and_tells_no_path(self, run, browser):
        run.put("ratings/anna/000000.json", b"{")
        status, _, body = browser.ask("/ratings/anna")
        assert status == 500
        assert run.url.encode() not in body

    @pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
    def test_nothing_else_can_be_done(self, browser, method):
        assert browser.ask("/ratings/anna", method)[0] == 405

    def test_every_answer_carries_a_policy_that_runs_one_script(self, browser):
        for path in ("/", "/cards/0", "/nothing"):
            policy = browser.ask(path)[1]["Content-Security-Policy"]
            assert policy.count("sha256-") == 1
            assert "unsafe-inline" not in policy.split("script-src")[1].split(";")[0]
            assert "frame-ancestors 'none'" in policy
