"""A store that cannot be used: one line that says what is wrong and what to do, exit code 2, no secret in it, and the store as it was."""

import http.server
import threading

import botocore.auth
import pytest
import s3fs

from jobs.cli import main
from sae.errors import InputError, StorageError
from sae.storage import Place, retries, s3
from tests.servers.fault_proxy import FaultProxy
from tests.servers.fixtures import forget_clients
from tests.servers.object_servers import free_ports

SECRETS = ("testing", "test:tester", "a-session-token", "wrong-secret")


@pytest.fixture
def refused(monkeypatch, capsys):
    """Change the environment, look at a URL from the command line and write to it: both are refused with these phrases."""

    def try_it(url, *phrases, **environment):
        for name, value in environment.items():
            monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
        forget_clients()
        code = main(["show", url])
        [complaint] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("monosem: ")]
        assert code == 2, complaint
        with pytest.raises(InputError) as writing:
            Place(url).put_new("object", b"data")
        for said in (complaint, str(writing.value)):
            assert not any(secret in said for secret in SECRETS), said
            for phrase in phrases:
                assert phrase in said

    yield try_it
    forget_clients()


def test_an_endpoint_where_nothing_listens(swift_bucket, refused):
    [port] = free_ports(1)
    refused(swift_bucket, "nothing answers there: check AWS_ENDPOINT_URL", AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}")


def test_an_endpoint_that_is_no_s3_server(swift_bucket, refused):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    server.RequestHandlerClass.log_message = lambda *_: None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        refused(swift_bucket, "check AWS_ENDPOINT_URL", AWS_ENDPOINT_URL=f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()


def test_an_endpoint_that_speaks_no_tls(swift, swift_bucket, refused):
    refused(swift_bucket, "no secure connection: check https", AWS_ENDPOINT_URL=swift.url.replace("http:", "https:"))


def test_no_credentials_or_half_of_them(swift_bucket, refused):
    refused(swift_bucket, "half of the credentials is missing", AWS_SECRET_ACCESS_KEY=None)
    refused(swift_bucket, "there are no credentials: set AWS_ACCESS_KEY_ID", AWS_ACCESS_KEY_ID=None)
    refused(swift_bucket, "there is no such profile: check AWS_PROFILE", AWS_PROFILE="nobody")


def test_wrong_credentials(swift_bucket, refused):
    refused(swift_bucket, "SignatureDoesNotMatch", "the secret key does not fit", AWS_SECRET_ACCESS_KEY="wrong-secret")
    refused(swift_bucket, "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", AWS_ACCESS_KEY_ID="test:nobody")


def test_expired_credentials(swift, swift_bucket, refused):
    with FaultProxy(swift.port, {"expired_token": 1.0}) as proxy:
        given = {"AWS_ENDPOINT_URL": proxy.url, "AWS_SESSION_TOKEN": "a-session-token"}
        refused(swift_bucket, "have expired: renew them and run the same command again", **given)


def test_a_clock_that_is_wrong(swift_bucket, refused, monkeypatch):
    now = botocore.auth.get_current_datetime
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *given: now(*given).replace(year=2020))
    refused(swift_bucket, "RequestTimeTooSkewed", "set the clock")


def test_a_bucket_that_is_not_there(bucket, refused):
    refused(f"{bucket}-2/run", "there is no such bucket: create it, or check its name")


def test_a_bucket_that_may_only_be_read(swift, swift_bucket, monkeypatch):
    Place(swift_bucket).put("object", b"data")
    s3fs.S3FileSystem().chmod(swift_bucket, acl="public-read")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test:reader")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "reading")
    forget_clients()
    place = Place(swift_bucket)
    assert place.get("object") == b"data"
    for write in (place.put, place.put_new):
        with pytest.raises(InputError, match="permission refused: check what the credentials may do in this bucket"):
            write("other", b"data")
    with pytest.raises(InputError, match="permission refused"):
        place.delete("object")
    assert place.list() == ["object"]


def test_a_url_that_names_no_bucket_or_holds_a_password(swift_bucket):
    with pytest.raises(InputError, match="names no bucket"):
        Place("s3:///run")
    with pytest.raises(InputError, match="leave them out") as error:
        Place("s3://test:testing@bucket/run")
    assert "testing" not in str(error.value)


@pytest.mark.parametrize("fault", ["internal_error", "slow_down", "reset", "truncated"])
def test_a_store_that_does_not_recover_is_given_up_in_bounded_time(swift, swift_bucket, monkeypatch, fault):
    place = Place(swift_bucket)
    place.put("object", b"0123456789" * 1000)
    monkeypatch.setattr(retries, "FIRST_PAUSE_SECONDS", 0.001)
    with FaultProxy(swift.port) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        forget_clients()
        place = Place(swift_bucket)
        assert place.exists("object")
        proxy.rates = {fault: 1.0}
        for attempt in (lambda: place.get("object"), lambda: place.put("object", b"new"), place.list, lambda: place.exists("object")):
            before = proxy.requests
            with pytest.raises(StorageError, match="again and again"):
                attempt()
            # aiohttp, too, repeats a request once whose connection was closed before an answer.
            assert retries.ATTEMPTS <= proxy.requests - before <= 2 * retries.ATTEMPTS
        proxy.rates = {}
        assert len(place.get("object")) in (10_000, 3), "the last answer of a write was cut short, perhaps after it was done"


def test_whatever_goes_wrong_on_the_way_no_byte_is_wrong(swift, swift_bucket, monkeypatch):
    monkeypatch.setattr(retries, "FIRST_PAUSE_SECONDS", 0.002)
    faults = {"internal_error": 0.06, "slow_down": 0.06, "reset": 0.06, "lost_answer": 0.06, "truncated": 0.06}
    with FaultProxy(swift.port, faults, seed=1) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        forget_clients()
        place = Place(f"{swift_bucket}/rough", connections=4)
        contents = {f"{number:03d}": bytes([number]) * (1 + 997 * number) for number in range(60)}
        for number, (key, data) in enumerate(contents.items()):
            place.put(key, data) if number % 2 else place.put_new(key, data)
        assert place.list() == sorted(contents)
        halves = [(key, *part) for key, data in contents.items() for part in ((0, len(data) // 2), (len(data) // 2, None))]
        found = list(place.get_many(halves))
        assert [found[2 * n] + found[2 * n + 1] for n in range(60)] == list(contents.values())
        assert set(proxy.faults) == set(faults)
        assert proxy.faults.total() >= 60


def test_a_server_that_falls_silent_is_not_waited_for_for_ever(swift, swift_bucket, monkeypatch):
    monkeypatch.setattr(s3, "SILENCE_SECONDS", 1)
    with FaultProxy(swift.port) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        forget_clients()
        place = Place(swift_bucket)
        place.put("object", b"data")
        proxy.rates = {"stall": 0.5}
        assert place.get("object") == b"data"
        place.put("object", b"data")
        assert proxy.faults["stall"] >= 1
