"""Streams of Kubernetes' CRI: what `kubectl exec`, `attach` and `port-forward` come down to.

The runtime gives the address of a stream; behind it is a WebSocket whose messages are channels: the
first byte of each says which one. stdin has no end there: the connection has.
"""
import base64
import json
import os
import socket
import struct
import sys
import threading
from urllib.parse import urlsplit

PROTOCOL = "v4.channel.k8s.io"
STDIN, STDOUT, STDERR, ERROR, RESIZE = range(5)


class StreamError(Exception):
    pass


class WebSocket:
    """The client's half of RFC 6455, as far as it is needed."""

    def __init__(self, url, query=""):
        parts = urlsplit(url)
        self.socket = socket.create_connection((parts.hostname, parts.port), timeout=60)
        self.socket.settimeout(None)
        self.input = self.socket.makefile("rb")
        self.lock = threading.Lock()
        key = base64.b64encode(os.urandom(16)).decode()
        request = [
            f"GET {parts.path}{query} HTTP/1.1", f"Host: {parts.netloc}", "Connection: Upgrade", "Upgrade: websocket",
            "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}", f"Sec-WebSocket-Protocol: {PROTOCOL}", "", "",
        ]
        self.socket.sendall("\r\n".join(request).encode())
        status = self.input.readline().decode().strip()
        length = 0
        while True:
            header = self.input.readline().decode().strip()
            if not header:
                break
            name, _, value = header.partition(":")
            if name.lower() == "content-length":
                length = int(value)
        if " 101 " not in status + " ":
            raise StreamError(f"{status}: {self.input.read(length).decode().strip()}")

    def send(self, channel, data):
        body = bytes([channel]) + data
        self._frame(2, body)

    def _frame(self, kind, body):
        if len(body) < 126:
            head = struct.pack("!BB", 0x80 | kind, 0x80 | len(body))
        elif len(body) < 1 << 16:
            head = struct.pack("!BBH", 0x80 | kind, 0x80 | 126, len(body))
        else:
            head = struct.pack("!BBQ", 0x80 | kind, 0x80 | 127, len(body))
        # What is sent by a client is masked; nobody listens in between here.
        with self.lock:
            self.socket.sendall(head + bytes(4) + body)

    def messages(self):
        """Yields (channel, data) until the other side closes."""
        whole = b""
        while True:
            try:
                head = self.input.read(2)
            except OSError:
                return
            if len(head) < 2:
                return
            length = head[1] & 0x7F
            if length == 126:
                length, = struct.unpack("!H", self.input.read(2))
            elif length == 127:
                length, = struct.unpack("!Q", self.input.read(8))
            body = self.input.read(length)
            kind = head[0] & 0x0F
            if kind == 8:
                return
            if kind == 9:
                self._frame(10, body)
            if kind in (0, 1, 2):
                whole += body
                if head[0] & 0x80:
                    if whole:
                        yield whole[0], whole[1:]
                    whole = b""

    def close(self):
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def size(text):
    width, _, height = text.partition("x")
    return json.dumps({"Width": int(width), "Height": int(height)}).encode()


def exit_status(report):
    """What the error channel says of a process that ended."""
    if report.get("status") == "Success":
        return 0
    for cause in report.get("details", {}).get("causes", []):
        if cause.get("reason") == "ExitCode":
            return int(cause["message"])
    raise StreamError(report.get("message", str(report)))


def run(url, stdin=False, first_size=None, resizes=(), until=None):
    """Joins a process to this one's streams; returns its exit status.

    resizes: pairs of a text and the size that the terminal gets once the output has that.
    until: a text in the output after which the connection is closed; the status is 0 then.
    """
    stream = WebSocket(url)
    if first_size:
        stream.send(RESIZE, size(first_size))
    if stdin:
        threading.Thread(target=_pump, args=(0, stream, STDIN), daemon=True).start()
    seen, waiting = b"", list(resizes)
    for channel, data in stream.messages():
        if channel in (STDOUT, STDERR):
            os.write(1 if channel == STDOUT else 2, data)
            seen = seen[-4096:] + data
        if waiting and waiting[0][0].encode() in seen:
            stream.send(RESIZE, size(waiting.pop(0)[1]))
        if until and until.encode() in seen:
            stream.close()
            return 0
        if channel == ERROR and data:
            return exit_status(json.loads(data))
    return 0


def _pump(fd, stream, channel):
    while True:
        data = os.read(fd, 1 << 15)
        if not data:
            return
        try:
            stream.send(channel, data)
        except OSError:
            return


def _forward(url, port, receive, deliver):
    """One connection to a port of a pod. receive() gives what is to be sent, b"" at its end."""
    stream = WebSocket(url, f"?port={port}")

    def pump():
        while True:
            data = receive()
            if not data:
                return
            stream.send(0, data)

    begun, failure = set(), b""
    for channel, data in stream.messages():
        # The first message of each of the two channels is the number of the port.
        if channel not in begun:
            begun.add(channel)
            if len(begun) == 2:
                threading.Thread(target=pump, daemon=True).start()
            continue
        if channel == 0:
            deliver(data)
        else:
            failure += data
            if data:
                break
    stream.close()
    if failure:
        raise StreamError(failure.decode())


def forward_here(url, port):
    """A connection to a port of a pod, on stdin and stdout."""
    _forward(url, port, lambda: os.read(0, 1 << 15), lambda data: os.write(1, data))


def forward(new_url, local, remote):
    """Serves a port of this machine, each connection to which is one to a port of a pod."""
    server = socket.create_server(("127.0.0.1", local))

    def serve(client):
        try:
            _forward(new_url(), remote, lambda: client.recv(1 << 15), client.sendall)
        except Exception as error:  # Whatever it is, the client is not to wait.
            print(error, file=sys.stderr, flush=True)
        finally:
            client.close()

    while True:
        client, _ = server.accept()
        threading.Thread(target=serve, args=(client,), daemon=True).start()
