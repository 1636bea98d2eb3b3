"""Credentials of S3 that no request can carry are refused when a place is made, and never repeated."""

import pytest

from sae.errors import InputError
from sae.storage import Place

SECRET = "AKIAverysecret0123456789"


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"])
@pytest.mark.parametrize(
    ("value", "said"),
    [
        (SECRET + "\n", "a line break"),
        (SECRET + "\r\n", "a line break"),
        (" " + SECRET, "a space or control character"),
        (SECRET[:8] + "\t" + SECRET[8:], "a space or control character"),
        (SECRET + "\u00a0", "a character that is not ASCII"),
    ],
)
def test_they_are_one_word_or_refused_without_being_shown(monkeypatch, name, value, said):
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=f"{name} holds {said}") as caught:
        Place("s3://bucket/run").exists("x")
    assert not any(piece in str(caught.value) for piece in (SECRET[:8], SECRET[8:16], SECRET[-8:]))
