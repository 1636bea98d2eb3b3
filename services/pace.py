"""When the next request may begin: rate limits, and the pauses an endpoint asks for, for all requests of a run together."""

import asyncio
import time


class Pace:
    """Spaces requests evenly; for the tasks of one event loop.

    Args:
        requests_per_minute: None sets no limit.
        tokens_per_minute: None sets no limit.
    """

    def __init__(self, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
        self._per_request = 60 / requests_per_minute if requests_per_minute else 0.0
        self._per_token = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._next = 0.0
        self._paused_until = 0.0

    async def turn(self, tokens: int) -> None:
        """Wait until a request of so many tokens may begin."""
        begins = max(time.monotonic(), self._next)
        self._next = begins + max(self._per_request, tokens * self._per_token)
        while (wait := max(begins, self._paused_until) - time.monotonic()) > 0:
            await asyncio.sleep(wait)

    def pause(self, seconds: float) -> None:
        """Let no request begin for a while: whoever asks for patience means everybody."""
        self._paused_until = max(self._paused_until, time.monotonic() + seconds)
