"""The report over HTTP: what is handed out, to whom, and with which protections; asked as a stranger would, over a socket."""

import asyncio
import gzip
import http.client
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from running_browser import RunningBrowser

from sae.errors import InputError
from sae.report.script import page_script
from sae.storage import Place
from services.browser.hosts import Hosts, allowed_hosts
from services.browser.pages import index_key
from services.browser.server import Listening, serve, start

ROOT = Path(__file__).parents[2]
REPORT = "<!doctype html><title>a report</title><script>" + page_script(with_features=False) + "</script>"


@pytest.fixture
def open_browser(tmp_path):
    opened = []

    def open_at(place, **listening):
        opened.append(RunningBrowser(place, Listening(port=0, **listening)))
        return opened[-1]

    yield open_at
    for each in opened:
        each.stop()


@pytest.fixture
def run(tmp_path):
    place = Place(tmp_path / "run")
    place.put("report.html", REPORT.encode())
    place.put_json("summary.json", {"dictionaries": []})
    place.put("interpretation/topk/features.parquet", b"PAR1")
    place.put_json("interpretation/topk/summary.json", {"num_scored": 3})
    (tmp_path / "secret.txt").write_text("not for visitors")
    place.put_json("config.json", {"output": "not for visitors"})
    return place


@pytest.fixture
def browser(run, open_browser):
    return open_browser(run)


class TestWhatIsHandedOut:
    def test_the_report_is_the_first_page(self, browser):
        status, headers, body = browser.ask("/")
        assert (status, body.decode()) == (200, REPORT)
        assert headers["Content-Type"] == "text/html; charset=utf-8"
        assert browser.ask("/report.html")[2] == body

    def test_the_summary_is_json(self, browser):
        status, headers, body = browser.ask("/summary.json")
        assert (status, json.loads(body)) == (200, {"dictionaries": []})
        assert headers["Content-Type"].startswith("application/json")

    def test_the_feature_index_is_open_by_source(self, browser):
        assert browser.ask("/interpretation/topk/features.parquet")[2] == b"PAR1"
        assert json.loads(browser.ask("/interpretation/topk/summary.json")[2]) == {"num_scored": 3}

    def test_what_a_visitor_has_already_is_not_sent_again(self, browser):
        tag = browser.ask("/")[1]["ETag"]
        assert browser.ask("/", If_None_Match=tag)[::2] == (304, b"")

    def test_pages_are_compressed_where_that_is_understood(self, browser):
        _, headers, body = browser.ask("/", Accept_Encoding="gzip, br")
        assert headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(body).decode() == REPORT

    def test_a_new_report_appears_after_a_moment(self, run, browser, monkeypatch):
        monkeypatch.setattr("services.browser.pages.KEEP_SECONDS", 0.0)
        first = browser.ask("/")[1]["ETag"]
        run.put("report.html", b"<!doctype html>another")
        _, headers, body = browser.ask("/")
        assert body == b"<!doctype html>another"
        assert headers["ETag"] != first

    def test_a_run_in_an_object_store_is_shown_too(self, bucket, open_browser):
        place = Place(f"{bucket}/run")
        place.put("report.html", REPORT.encode())
        assert open_browser(place).ask("/")[2].decode() == REPORT


class TestWhatIsNotHandedOut:
    @pytest.mark.parametrize(
        "path",
        [
            "/config.json", "/../secret.txt", "/%2e%2e/secret.txt", "/..%2fsecret.txt", "//etc/passwd", "/interpretation/../../secret.txt",
            "/interpretation/..%2f..%2f/summary.json", "/interpretation/%2e%2e/summary.json", "/interpretation/topk/..%2f..%2fconfig.json",
            "/interpretation/topk%00/summary.json", "/interpretation/topk/examples.parquet", "/report.html%00.txt", "/report.html/", "/favicon.ico",
        ],
    )  # fmt: skip
    def test_nothing_but_the_listed_objects(self, browser, path):
        status, _, body = browser.ask(path)
        assert status in (400, 404)
        assert b"not for visitors" not in body

    @pytest.mark.parametrize("source", ["", "..", ".hidden", "a/b", "a\\b", "a\n", "ä", "x" * 101])
    def test_the_name_of_a_source_is_no_path(self, source):
        assert index_key(source, "summary.json") is None

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
    def test_nothing_can_be_changed(self, run, browser, method):
        assert browser.ask("/report.html", method)[0] == 405
        assert run.get("report.html").decode() == REPORT

    def test_a_missing_report_is_said_without_the_path(self, tmp_path, open_browser):
        status, _, body = open_browser(Place(tmp_path)).ask("/")
        assert status == 404
        assert b"monosem report" in body
        assert str(tmp_path).encode() not in body

    def test_a_storage_that_does_not_answer_is_a_bad_gateway_without_details(self, run, open_browser):
        browser = open_browser(run)
        report = Path(run.local_path("report.html"))
        report.unlink()
        report.symlink_to(report)  # reading it fails with ELOOP: an error of the storage
        status, _, body = browser.ask("/")
        assert status == 502
        assert str(report).encode() not in body


class TestProtection:
    @pytest.mark.parametrize("path", ["/", "/summary.json", "/healthz", "/nothing"])
    def test_every_answer_carries_the_headers(self, browser, path):
        headers = browser.ask(path)[1]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Server"] == "monosem"
        assert "default-src 'none'" in headers["Content-Security-Policy"]

    def test_only_scripts_of_this_release_may_run(self, browser, run):
        policy = browser.ask("/")[1]["Content-Security-Policy"]
        run.put("report.html", b"<script>alert(1)</script>")
        assert browser.ask("/nothing")[1]["Content-Security-Policy"] == policy
        scripts = policy.split("script-src ")[1].split(";")[0].split()
        assert len(scripts) == 2
        assert all(script.startswith("'sha256-") for script in scripts)

    def test_on_loopback_it_answers_only_to_this_machines_name(self, browser):
        assert browser.ask("/", Host="evil.example")[0] == 421
        assert browser.ask("/", Host=f"localhost:{browser.port}")[0] == 200

    def test_listening_for_others_it_answers_to_addresses_and_configured_names_only(self, run, open_browser):
        browser = open_browser(run, host="0.0.0.0", allowed_hosts=["Features.example"])
        asked = {"features.example": 200, "FEATURES.example:443": 200, "10.1.2.3:8080": 200, "localhost": 200, "evil.example": 421, "": 421}
        assert {host: browser.ask("/", Host=host)[0] for host in asked} == asked

    @pytest.mark.parametrize(
        ("host", "local"),
        [
            *(("127.0.0.1:80", True), ("[::1]:80", True), ("[::1]", True), ("localhost", True), ("LOCALHOST.:80", True)),
            *(("127.0.0.1.evil.example", False), ("", False), ("10.0.0.1", False), ("localhost@evil.example", False), ("localhost:x", False)),
            *(("[::1", False), ("evil.example:localhost", False), ("127.1", False), ("2130706433", False), ("localhost evil.example", False)),
        ],
    )
    def test_names_of_this_machine(self, host, local):
        assert Hosts(only_loopback=True).answers_to(host) is local

    @pytest.mark.parametrize("name", ["http://a.example", "a.example:80", "*", "a b", "", "a/b", "-a.example", "a..example", "x" * 300])
    def test_a_name_that_no_host_has_is_refused_at_the_start(self, name):
        with pytest.raises(InputError, match="is no host name"):
            allowed_hosts("0.0.0.0", [name])

    @pytest.mark.parametrize("link", ["/etc/hostname", "../secret.txt", "config.json"])
    def test_a_link_out_of_the_run_is_not_followed(self, run, open_browser, link):
        report = Path(run.local_path("report.html"))
        report.unlink()
        report.symlink_to(link)
        status, _, body = open_browser(run).ask("/")
        assert (status, b"not for visitors" in body) == (
            (200, True) if link == "config.json" else (404, False)
        )  # a link within the run is one of its files

    def test_a_pipe_in_the_place_of_a_file_holds_up_nobody(self, run, open_browser):
        os.mkfifo(run.local_path("interpretation/topk/pipe"))
        os.replace(run.local_path("interpretation/topk/pipe"), run.local_path("interpretation/topk/features.parquet"))
        assert open_browser(run).ask("/interpretation/topk/features.parquet")[0] == 404

    def test_a_visitor_cannot_write_into_the_log(self, run, open_browser, caplog):
        report = Path(run.local_path("report.html"))
        report.unlink()
        report.symlink_to(report)
        open_browser(run).ask("/report.html?a=%0aevent=forged")
        open_browser(run).ask("/interpretation/topk%0aevent=forged/summary.json")
        lines = [record.getMessage() for record in caplog.records]
        assert any("event=browser_failed" in line for line in lines)
        assert all("\n" not in line for line in lines)


class TestHealthAndMetrics:
    def test_it_lives_without_a_report_and_is_ready_with_one(self, tmp_path, open_browser):
        place = Place(tmp_path)
        browser = open_browser(place)
        assert browser.ask("/healthz")[0] == 200
        assert browser.ask("/readyz")[0] == 503
        place.put_json("summary.json", {})
        assert browser.ask("/readyz")[0] == 200

    def test_requests_are_counted_by_class_not_by_path(self, browser):
        for path in ("/", "/report.html", "/one", "/two", "/interpretation/nobody/summary.json"):
            browser.ask(path)
        text = browser.ask("/metrics")[2].decode()
        families = {family.name: family for family in text_string_to_metric_families(text)}
        counted = {tuple(sorted(s.labels.items())): s.value for s in families["monosem_browser_requests"].samples if s.name.endswith("_total")}
        assert counted == {
            (("route", "report"), ("status", "2xx")): 2,
            (("route", "other"), ("status", "4xx")): 2,
            (("route", "index"), ("status", "4xx")): 1,
        }
        assert {name.removesuffix("_created") for name in families} == {"monosem_browser_requests", "monosem_browser_request_seconds"}

    def test_metrics_may_have_a_port_that_visitors_do_not_reach(self, run, open_browser):
        browser = open_browser(run, metrics_port=0)
        assert browser.ask("/metrics")[0] == 404
        port = browser.servers[1].port
        assert b"monosem_browser_requests_total" in browser.ask("/metrics", port=port)[2]
        assert browser.ask("/", port=port)[0] == 404


class TestStarting:
    def test_a_directory_without_report_is_the_callers_mistake(self, tmp_path):
        with pytest.raises(InputError, match=r"holds no report\.html"):
            serve(Place(tmp_path), Listening())

    def test_a_port_in_use_is_named(self, run, browser):
        with pytest.raises(InputError, match=rf"cannot listen on 127\.0\.0\.1:{browser.port}"):
            asyncio.run(start(run, Listening(port=browser.port), []))

    def test_the_verb_serves_until_it_is_told_to_stop(self, run):
        command = [sys.executable, "-m", "jobs", "serve", os.fspath(run.url), "--port", "0"]
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
            line = process.stderr.readline()
            assert "event=serving" in line
            connection = http.client.HTTPConnection(line.split("address=http://")[1].strip().strip("/"), timeout=20)
            connection.request("GET", "/healthz")
            assert connection.getresponse().status == 200
            connection.close()
            process.terminate()
            assert process.wait(20) == 143

    def test_it_imports_neither_torch_nor_ray(self):
        code = "import sys, jobs.serve, jobs.cli; print(sorted({'torch', 'ray', 'transformers', 'matplotlib', 'pandas'} & set(sys.modules)))"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout.strip() == "[]"
