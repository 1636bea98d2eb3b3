"""One request to a chat endpoint over HTTP, within bounds of time and size; whatever happens has a judgement."""

import asyncio
import json
import logging
import ssl
import zlib
from typing import Any

import httpx2 as httpx  # as huggingface_hub does

from sae.errors import InputError
from sae.interpretation.language_model.judgement import Judgement, judge

MOST_REPLY_BYTES = 8 << 20  # a reply of 10,000 tokens has some 50 kB
CONNECT_SECONDS = 30.0


class Endpoint:
    """A chat endpoint; for the tasks of one event loop.

    No redirect is followed: the key is for the address that was given.

    Args:
        url: of the API; `/chat/completions` is added.
        key: sent as a bearer token.
        timeout_seconds: for a reply, from connecting to its last byte.

    Raises:
        InputError: the environment names a proxy or certificates that cannot be used.
    """

    def __init__(self, url: str, key: str, timeout_seconds: float) -> None:
        self._url, self._timeout = f"{url}/chat/completions", timeout_seconds
        # At DEBUG the library writes the headers of each response, in which a server may repeat the key.
        logging.getLogger("httpcore2").setLevel(logging.INFO)
        headers = {
            "authorization": f"Bearer {key}",
            "content-type": "application/json",
            "accept": "application/json",
            "accept-encoding": "identity",  # a small body needs no compression, and a bomb finds no fuse
            "user-agent": "monosem",
        }
        try:
            self._client = httpx.AsyncClient(
                headers=headers,
                timeout=httpx.Timeout(None, connect=min(CONNECT_SECONDS, timeout_seconds)),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
            )
        except (ValueError, ImportError, OSError) as error:
            raise InputError(
                f"cannot connect to {url} with the proxy or certificates of the environment ({type(error).__name__}): "
                "check HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and SSL_CERT_FILE"
            ) from None

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()

    async def post(self, arguments: dict[str, Any]) -> Judgement:
        """Ask once."""
        try:
            async with asyncio.timeout(self._timeout), self._client.stream("POST", self._url, content=json.dumps(arguments).encode()) as response:
                body = await _body_of(response)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.InvalidURL, UnicodeError) as error:
            return Judgement("unreachable", _reason(error))
        except (TimeoutError, httpx.TimeoutException):
            return Judgement("timed_out", "no reply in time", None, None)
        except httpx.HTTPError as error:
            return Judgement("broken", _reason(error), None, None)
        if isinstance(body, str):
            return Judgement("unreadable", body, None, None)
        return judge(response.status_code, {name.lower(): value for name, value in response.headers.items()}, body)


async def _body_of(response: httpx.Response) -> bytes | str:
    """The body without its compression; or, as a string, why it cannot be read."""
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > MOST_REPLY_BYTES:
            return f"its reply has more than {MOST_REPLY_BYTES >> 20} MiB"
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("identity", ""):
        return bytes(body)
    if encoding not in ("gzip", "x-gzip", "deflate"):
        return "its reply is compressed, which was not asked for"
    try:
        plain = zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(bytes(body), MOST_REPLY_BYTES + 1)
    except zlib.error:
        return "its reply is compressed and damaged"
    return plain if len(plain) <= MOST_REPLY_BYTES else f"its reply has more than {MOST_REPLY_BYTES >> 20} MiB"


def _reason(error: BaseException) -> str:
    """Return the message of the operating system or TLS, in one line; a client library's own words may quote headers."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return f"no secure connection, {cause.reason or 'TLS failed'}".replace("_", " ").lower()
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return {
        "ConnectTimeout": "no connection in time",
        "RemoteProtocolError": "the connection broke before the reply was whole",
        "ReadError": "the connection broke",
        "UnsupportedProtocol": "no http:// or https:// URL",
        "ProxyError": "the proxy refused",
    }.get(type(error).__name__, type(error).__name__)
