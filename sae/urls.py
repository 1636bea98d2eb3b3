"""URLs of places: the checks that every URL passes, those of an output, and what of a URL may be shown."""

import os
import re
import unicodedata
import urllib.parse

from sae.errors import InputError

LONGEST_URL = 1024  # the longest key of S3; what is longer was not meant as a path
LONGEST_SHOWN = 100
OUTPUT_SCHEMES = ("file", "local", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "hf")
AZURE = ("az", "abfs", "abfss", "adl")  # CONTAINER@ACCOUNT names a place there, no user

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
_AUTHORITY = re.compile(r":/+([^/?#]*)")
_CHAINED = re.compile(r"::(?=[a-z0-9+.-]+:/)")
_PARAMETER = re.compile(r"[?#&;]([^=&;#?/]+)=")
_SECRET = re.compile(
    r"(x-amz-|x-goog-|aws|google).*|.*(sig|signature|token|secret|passwd|password|pwd|credentials?|api[-_]?key|access[-_]?key|auth|sas)|key",
    re.IGNORECASE,
)
_UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")  # control characters, half surrogate pairs (bytes that are not UTF-8), line and paragraph separators


def check_url(url: str) -> None:
    """Refuse what cannot be meant as the URL of a place.

    Raises:
        InputError: it is empty, too long, holds credentials, control characters or blanks around it, chains filesystems, lacks a slash, or
            names a user that does not exist.
    """
    refuse_credentials(url[:LONGEST_URL])
    reason = _reason_against(url[: LONGEST_URL + 1])
    if reason:
        raise InputError(f"{shown(url)} is not the path or URL of a directory: {reason}")


def check_output_url(url: str) -> None:
    """Refuse, beyond `check_url`, what cannot hold the output of a command.

    Raises:
        InputError: as `check_url`; or the scheme keeps nothing after the process, or cannot be written whole objects to.
    """
    check_url(url)
    scheme = url.partition("://")[0] if "://" in url else "file"
    if scheme not in OUTPUT_SCHEMES:
        reason = "what it holds is gone when the command ends" if scheme == "memory" else f"{scheme}:// cannot be written to whole and for good"
        raise InputError(f"{shown(url)} cannot be an output: {reason}. Use a local path, or {', '.join(f'{each}://' for each in OUTPUT_SCHEMES[2:])}")


def refuse_credentials(text: str) -> None:
    """Refuse text with a URL that holds a password, a signature or a token; the message repeats none of it.

    Raises:
        InputError: it does.
    """
    for word in text.split():
        if ":/" not in word:
            continue
        scheme = re.sub(r".*[^a-z0-9+.-]", "", word.partition(":/")[0][-20:].lower())
        names = _PARAMETER.findall(urllib.parse.unquote(word))
        named = any(_names_user(scheme, urllib.parse.unquote(authority)) for authority in _AUTHORITY.findall(_CHAINED.sub("/", word)))
        if named or any(_SECRET.fullmatch(name) for name in names):
            raise InputError(
                f"a URL of {scheme}:// holds credentials. They would end in logs and results: leave them out. Set those of S3 as AWS_ACCESS_KEY_ID "
                "and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, and others in the environment that their library reads"
            )


def without_credentials(text: str) -> str:
    """`text` without users, passwords and queries of the URLs in it, such as messages of libraries have them."""
    return re.sub(r"(://[^\s?'\"]*)\?[^\s'\"]*", r"\1?…", re.sub(r"(:/+)[^/\s@]*@", r"\1…@", text))


def absolute_url(url: str) -> str:
    """The URL as a process in another working directory must say it: local paths made absolute, `~` expanded.

    Raises:
        InputError: as `check_url`.
    """
    check_url(url)
    return url if "://" in url else os.path.abspath(os.path.expanduser(url))


def normalized(url: str) -> str:
    """The URL without slashes at its end.

    Raises:
        InputError: as `check_url`.
    """
    check_url(url)
    scheme, separator, path = url.partition("://") if "://" in url else ("", "", url)
    return scheme + separator + (path.rstrip("/") or path[:1])


def shown(url: str) -> str:
    """A URL in quotes for messages: shortened, control characters escaped."""
    return repr(url if len(url) <= LONGEST_SHOWN else f"{url[:LONGEST_SHOWN]}…")


def _reason_against(url: str) -> str | None:
    scheme = _SCHEME.match(url)
    name = scheme[1] if scheme else ""
    lacks_slash = scheme and not url.startswith(f"{name}://") and (url[scheme.end() :].startswith("/") or name.lower() in (*OUTPUT_SCHEMES, "memory"))
    no_user = url.startswith("~") and os.path.expanduser(url) == url
    reasons = (
        (not url.strip(), "it is empty"),
        (len(url) > LONGEST_URL, f"it has more than {LONGEST_URL:,} characters. Choose a shorter one"),
        (any(unicodedata.category(each) in _UNPRINTABLE for each in url), "it holds control characters, or bytes that are not UTF-8. Remove them"),
        (url != url.strip(), "blanks stand around it. Remove them"),
        ("::" in url, "'::' chains filesystems, which no place does. Give the URL of the directory itself"),
        (lacks_slash, f"after '{name}:' there must be two slashes. Write {name}://… (or ./{name}:… for a directory of this name)"),
        (no_user, f"there is no user {url[1:].partition('/')[0][:40]!r} on this machine. Write ./~… for a directory of this name"),
    )
    return next((reason for found, reason in reasons if found), None)


def _names_user(scheme: str, authority: str) -> bool:
    """Say whether the part before the first slash holds a user or a password."""
    if authority.startswith("arn:"):  # an access point of S3
        return False
    user, at, _ = authority.rpartition("@")
    if at:
        return scheme not in AZURE or ":" in user
    _, colon, port = authority.rpartition(":")
    # Whatever stands there and is no port may be the beginning of a password with a slash in it.
    return bool(colon) and not port.isdigit() and not authority.endswith("]")
