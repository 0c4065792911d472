"""The Docker Engine API on a UNIX socket."""
import http.client
import json
import socket


class Api(http.client.HTTPConnection):
    """A connection that is used again and again."""

    def __init__(self, path):
        super().__init__("localhost")
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)

    def answer(self, method, url, body=None, raw=None):
        """Status and text. `raw` is sent as it is, anything else as JSON."""
        sent = raw if raw is not None else None if body is None else json.dumps(body)
        self.request(method, url, sent, {"Content-Type": "application/json"} if sent is not None else {})
        answer = self.getresponse()
        return answer.status, answer.read()

    def ask(self, method, url, body=None):
        """What a successful answer says."""
        status, text = self.answer(method, url, body)
        if status >= 300:
            raise RuntimeError(f"{method} {url}: {status} {text[:200]!r}")
        return json.loads(text) if text else None
