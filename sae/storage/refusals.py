"""Meaning of an answer of an S3 server, or of its silence: a passing trouble, the user's mistake, or a failure.

===========================================  ============================================
answer                                       meaning
===========================================  ============================================
500, 502, 503, 504, 429, SlowDown, time-out, passing: asked again, then StorageError
reset, a body cut short
nothing has ever listened there              InputError: the endpoint
an answer that is not S3's                   InputError: the endpoint
no, wrong or expired credentials             InputError: the credentials
AccessDenied                                 InputError: the permissions
NoSuchBucket, a wrong region                 InputError: the bucket
RequestTimeTooSkewed                         InputError: this machine's clock
===========================================  ============================================

No message holds a key, a signature or a token: of what the server says only the code is repeated.
"""

from typing import Any

import aiohttp
import botocore.exceptions
import botocore.parsers

from sae.errors import InputError, MonosemError, StorageError

PASSING_CODES = {
    "SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "Throttling", "ThrottlingException", "TooManyRequests",
    "BandwidthLimitExceeded", "IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch", "OperationAborted", "ConditionalRequestConflict",
    "RequestLimitExceeded",
}  # fmt: skip
_CHECK_KEYS = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
_RENEW = "the credentials have expired: renew them and run the same command again, finished work is kept"
_REGION = "the bucket lies in another region: set AWS_DEFAULT_REGION to its region"
EXPLANATIONS = {
    "InvalidAccessKeyId": f"the server does not know the access key: {_CHECK_KEYS}",
    "SignatureDoesNotMatch": f"the secret key does not fit the access key: {_CHECK_KEYS}",
    "InvalidToken": "the session token is not valid: check AWS_SESSION_TOKEN",
    "ExpiredToken": _RENEW,
    "ExpiredTokenException": _RENEW,
    "TokenRefreshRequired": _RENEW,
    "RequestExpired": _RENEW,
    "RequestTimeTooSkewed": "this machine's clock and the server's differ too much: set the clock (NTP)",
    "NoSuchBucket": "there is no such bucket: create it, or check its name",
    "InvalidBucketName": "no bucket can have this name: check the URL (s3://BUCKET/PREFIX)",
    "PermanentRedirect": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
    "IllegalLocationConstraintException": _REGION,
}
_BEFORE_CONTACT = (botocore.exceptions.EndpointConnectionError, botocore.exceptions.ConnectTimeoutError, botocore.exceptions.ProxyConnectionError)
_LOST = (
    botocore.exceptions.HTTPClientError, botocore.exceptions.ConnectionError, botocore.exceptions.IncompleteReadError,
    aiohttp.ClientError, ConnectionError, TimeoutError,
)  # fmt: skip
_UNREADABLE = botocore.parsers.ResponseParserError
_MISTAKES: tuple[tuple[tuple[type[Exception], ...], str], ...] = (
    (
        (
            botocore.exceptions.NoCredentialsError, botocore.exceptions.CredentialRetrievalError, botocore.exceptions.TokenRetrievalError,
            botocore.exceptions.SSOError, botocore.exceptions.MetadataRetrievalError, botocore.exceptions.NoAuthTokenError,
        ),
        "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    ),
    ((botocore.exceptions.PartialCredentialsError,), f"half of the credentials is missing: {_CHECK_KEYS}"),
    ((botocore.exceptions.ProfileNotFound,), "there is no such profile: check AWS_PROFILE and ~/.aws"),
    ((botocore.exceptions.SSLError,), "no secure connection: check https in AWS_ENDPOINT_URL, and AWS_CA_BUNDLE"),
    ((_UNREADABLE,), "the answer is not that of an S3 server: check AWS_ENDPOINT_URL"),
)  # fmt: skip
# `raise ... from` hides what s3fs and botocore raise; everything they do raise on purpose is one of these.
RAISED = (OSError, botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError, botocore.parsers.ResponseParserError, aiohttp.ClientError)


def answer(error: BaseException) -> tuple[str, int]:
    """The S3 error code and HTTP status behind an exception; `("", 0)` where the server gave no answer."""
    cause: BaseException | None = error
    while cause is not None:
        response: dict[str, Any] | None = getattr(cause, "response", None)
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            return str(response.get("Error", {}).get("Code", "")), int(status)
        cause = cause.__cause__
    return "", 0


def passes(error: BaseException) -> bool:
    """Say whether the trouble may be gone the next time."""
    code, status = answer(error)
    if code or status:
        return code in PASSING_CODES or status == 429 or (status >= 500 and status != 501)
    return isinstance(error, (*_LOST, _UNREADABLE)) and not isinstance(error, botocore.exceptions.SSLError)


def is_missing(error: BaseException) -> bool:
    """Say whether the server reports that there is no such object (and not: no such bucket)."""
    code, status = answer(error)
    return code in ("NoSuchKey", "404", "NotFound") or (status == 404 and code not in EXPLANATIONS)


def explained(error: BaseException, doing: str, endpoint: str, contacted: bool) -> MonosemError:
    """The error to raise for a request that is given up.

    Args:
        error: what s3fs or botocore raised.
        doing: `write s3://bucket/key (12 bytes)`, for the message.
        endpoint: the URL of the server.
        contacted: whether the server has ever answered this process.
    """
    code, status = answer(error)
    reason = _refusal(code, status) if status and not passes(error) else _silence(error, contacted)
    if reason:
        return InputError(f"cannot {doing} at {endpoint}: {reason}")
    found = code or type(error).__name__
    return StorageError(f"cannot {doing} at {endpoint}: {found}, again and again: see whether the store is up, then run the same command again")


def _refusal(code: str, status: int) -> str:
    if code in EXPLANATIONS:
        return f"{EXPLANATIONS[code]} (the server says {code})"
    if status in (401, 403):
        return f"permission refused: check what the credentials may do in this bucket (the server says {code})"
    # An S3 server names its errors in words; only something else answers with a bare number.
    return f"the server says {code or status}" + (", as no S3 server does: check AWS_ENDPOINT_URL" if code.isdigit() else "")


def _silence(error: BaseException, contacted: bool) -> str | None:
    for kinds, reason in _MISTAKES:
        if isinstance(error, kinds):
            return reason
    if isinstance(error, _BEFORE_CONTACT):
        return None if contacted else "nothing answers there: check AWS_ENDPOINT_URL and the network"
    if isinstance(error, botocore.exceptions.BotoCoreError) and not isinstance(error, _LOST):
        return f"{type(error).__name__}, {' '.join(str(error).split())[:200]}"
    return None
