"""A server of the browser in a thread of its own, asked as a stranger would: over a socket, with any bytes."""

import asyncio
import http.client
import threading

from services.browser.app import browser_app
from services.browser.server import start


class RunningBrowser:
    """The browser on a free port."""

    def __init__(self, place, listening, make_app=browser_app):
        self.loop = asyncio.new_event_loop()
        self.servers = []
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.address = asyncio.run_coroutine_threadsafe(start(place, listening, self.servers, make_app), self.loop).result(20)
        self.port = int(self.address.rstrip("/").rsplit(":", 1)[1])

    def ask(self, path, method="GET", port=None, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=20)
        connection.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)  # the path exactly as given
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        answer = response.read()
        connection.close()
        return response.status, dict(response.getheaders()), answer

    def stop(self):
        if self.loop.is_closed():
            return  # a test that stops it itself
        for server in self.servers:
            asyncio.run_coroutine_threadsafe(server.stop(), self.loop).result(20)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(20)
        self.loop.close()
