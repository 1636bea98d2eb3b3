"""What may be the URL of a place, and of an output; no URL with a password gets further than the check, and no message repeats it."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae.errors import InputError, MonosemError
from sae.storage import Place, absolute_url, check_output_url, refuse_credentials
from sae.urls import check_url, shown, without_credentials

SECRET = "hunter2"
WITH_CREDENTIALS = [
    "http://u:hunter2@host/s",
    "https://u:hunter2@host:8443/s",
    "s3://KEY:hunter2@bucket/run",
    "s3a://hunter2@bucket/run",
    "s3:/KEY:hunter2@bucket/run",
    "gs://u:hunter2@bucket/run",
    "abfs://u:hunter2@account.dfs.core.windows.net/run",
    "ftp://u:hunter2@host/x",
    "http://u:hunter2%40host/s",
    "http://u:hun/ter2@host/s",
    "simplecache::https://u:hunter2@host/s",
    "https://host/s?sig=hunter2",
    "https://host/s?a=b&X-Amz-Signature=hunter2",
    "https://host/s?X-Amz-Security-Token=hunter2",
    "https://host?token=hunter2",
    "https://host/s#access_token=hunter2",
    "https://host/s%3Fsig%3Dhunter2",
    "az://container/s?sv=2024&sig=hunter2",
    "s3://bucket/x?AWSAccessKeyId=hunter2",
    "gs://bucket/x?X-Goog-Credential=hunter2",
    "https://host/v1?api_key=hunter2",
    "https://host/v1?key=hunter2",
    "see https://u:hunter2@host/s for it",
]


@pytest.mark.parametrize("url", WITH_CREDENTIALS)
def test_a_url_with_credentials_is_refused_without_repeating_them(url):
    for check in (refuse_credentials, check_url, check_output_url, absolute_url, Place):
        with pytest.raises(InputError, match="holds credentials") as raised:
            check(url)
        assert "hun" not in str(raised.value)
        assert "KEY:" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/run",
        "s3://bucket/a@b/c:d",
        "s3://arn:aws:s3:us-west-2:123456789012:accesspoint/mine/run",
        "abfs://container@account.dfs.core.windows.net/run",
        "hf://datasets/me/store@main/run",
        "runs/a",
        "/data/run:1/a@b",
        "./s3:/bucket",
        "gs://bucket/run?",
        "~/run",
        "runs/a b",
        "runs/überall/机器",
    ],
)
def test_paths_and_urls_of_stores_can_be_outputs(url):
    check_output_url(url)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "it is empty"),
        (" ", "it is empty"),
        ("\n", "it is empty"),
        (" run", "blanks stand around it"),
        ("run\n", "control characters"),
        ("a\nmonosem: done", "control characters"),
        ("a\0b", "control characters"),
        ("a\x1b[31mb", "control characters"),
        ("a\u2028b", "control characters"),
        ("a\udcffb", "not UTF-8"),
        ("x" * 1025, "more than 1,024 characters"),
        ("x" * 10_000_000, "more than 1,024 characters"),
        ("s3:/bucket/x", r"two slashes. Write s3://"),
        ("s3:bucket/x", "two slashes"),
        ("S3:/bucket/x", "two slashes"),
        ("gs:/bucket", "two slashes"),
        ("file:/x", "two slashes"),
        ("nosuch:/x", "two slashes"),
        ("memory:x", "two slashes"),
        ("simplecache::/path", "chains filesystems"),
        ("zip://a::s3://bucket/x", "chains filesystems"),
        ("filecache::s3://bucket/x", "chains filesystems"),
        ("~nouser-of-this-machine/x", "there is no user 'nouser-of-this-machine'"),
    ],
)
def test_what_cannot_be_meant_as_a_directory_is_refused_in_one_short_line(url, reason):
    for check in (check_url, check_output_url, absolute_url, Place):
        with pytest.raises(InputError, match=reason) as raised:
            check(url)
        assert len(str(raised.value)) < 400
        assert str(raised.value).isprintable()


@pytest.mark.parametrize(
    "scheme", ["memory", "ftp", "github", "zip", "reference", "data", "http", "https", "tar", "dir", "git", "jlab", "smb", "nosuch", "S3"]
)
def test_schemes_that_keep_nothing_or_not_whole_objects_are_no_outputs(scheme):
    with pytest.raises(InputError, match="cannot be an output: .*Use a local path, or s3://"):
        check_output_url(f"{scheme}://x/y")


@pytest.mark.parametrize(
    "url", ["ftp://", "ftp://nobody.invalid/x", "github://x", "github://a:b@c/x", "zip://x", "reference://x", "data://x", "dir://x", "git://x"]
)
def test_a_place_that_cannot_be_opened_is_one_line(url):
    with pytest.raises(MonosemError) as raised:
        Place(url).list()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("url", ["/proc/monosem", "/proc/self/monosem/x", "/dev/null", "/dev/null/x", "/sys/monosem", "/tmp/" + "x" * 256])
def test_a_path_where_nothing_can_be_made_is_the_users_mistake(url):
    with pytest.raises(InputError, match="Choose another path|choose another path"):
        Place(url).put("a" * 10, b"x")


def test_slashes_at_the_end_are_left_out_and_roots_stay_roots(tmp_path):
    assert Place(f"{tmp_path}//").url == str(tmp_path)
    assert Place("/").url == "/"
    assert Place("/").child("tmp").url == "/tmp"
    assert Place("file:///").path("a") == "file:///a"
    assert Place("memory://").child("a").url == "memory://a"
    for url in ("s3://", "s3:///", "s3:///run"):
        with pytest.raises(InputError, match="names no bucket"):
            Place(url)


def test_messages_of_libraries_lose_users_and_queries():
    said = "403 for url 'https://u:hunter2@host/a?sig=hunter2' and s3://KEY:hunter2@b/x?y"
    assert without_credentials(said) == "403 for url 'https://…@host/a?…' and s3://…@b/x?…"


def test_a_long_url_is_shown_short():
    assert len(shown("x" * 10_000)) < 110


@pytest.mark.fuzz
@given(st.text(max_size=40) | st.from_regex(r"[a-z0-9]{1,6}:/{0,3}[a-z:@/?#&=%.~ ]{0,30}", fullmatch=True))
def test_whatever_is_given_as_a_url_is_a_place_or_one_printable_line(url):
    with contextlib.suppress(InputError):
        check_output_url(url)
        assert absolute_url(url)
        return
    with pytest.raises(InputError) as raised:
        check_output_url(url)
    assert str(raised.value).isprintable()


@pytest.mark.fuzz
@given(
    st.sampled_from(["s3", "http", "https", "gs", "ftp", "az"]), st.text(st.characters(categories=["L", "N"]), min_size=1), st.sampled_from("/:@%")
)
def test_no_password_passes(scheme, user, separator):
    for url in (f"{scheme}://{user}:{SECRET}@host/x", f"{scheme}://{user}:{separator}{SECRET}@host", f"{scheme}://host/x?{user}_token={SECRET}"):
        with pytest.raises(InputError) as raised:
            check_url(url)
        assert SECRET not in str(raised.value)
