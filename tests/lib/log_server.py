"""A log server for the cases: writes what it gets to a file, a line for each message.

log_server.py KIND WHERE FILE [CERTIFICATE KEY]

KIND is udp, tcp, tls (WHERE is a port on loopback), unix, unixgram, journal (WHERE is a path), or
deaf: a TCP server that takes connections and never reads. The journal's messages are written as JSON.
"""

import array
import json
import os
import socket
import ssl
import struct
import sys
import threading

kind, where, path = sys.argv[1:4]
out = open(path, "ab", buffering=0)


def bound(family, type_, address):
    server = socket.socket(family, type_)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_UNIX:
        try:
            os.unlink(address)
        except FileNotFoundError:
            pass
    server.bind(address)
    return server


def copy(stream, wrap):
    # A client may break the handshake off.
    with wrap(stream) as stream:
        while data := stream.recv(65536):
            out.write(data)


def streams(server, wrap=lambda stream: stream):
    server.listen(16)
    kept = []
    while True:
        stream, _ = server.accept()
        if kind == "deaf":
            kept.append(stream)
            continue
        threading.Thread(target=copy, args=(stream, wrap), daemon=True).start()


def datagrams(server):
    while True:
        out.write(server.recv(1 << 20))


def fields(data):
    found = {}
    while data:
        head, _, data = data.partition(b"\n")
        name, equals, value = head.partition(b"=")
        if not equals:
            (length,) = struct.unpack("<Q", data[:8])
            value, data = data[8 : 8 + length], data[9 + length :]
        found[name.decode()] = value.decode(errors="replace")
    return found


def journal(server):
    while True:
        data, control, _, _ = server.recvmsg(1 << 20, 64)
        for _, _, descriptors in control:
            with os.fdopen(array.array("i", descriptors)[0], "rb") as file:
                file.seek(0)
                data = file.read()
        out.write(json.dumps(fields(data)).encode() + b"\n")


if kind == "udp":
    datagrams(bound(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", int(where))))
elif kind == "unixgram":
    datagrams(bound(socket.AF_UNIX, socket.SOCK_DGRAM, where))
elif kind == "journal":
    os.makedirs(os.path.dirname(where), exist_ok=True)
    journal(bound(socket.AF_UNIX, socket.SOCK_DGRAM, where))
elif kind == "unix":
    streams(bound(socket.AF_UNIX, socket.SOCK_STREAM, where))
elif kind == "tls":
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[4], sys.argv[5])
    wrap = lambda stream: context.wrap_socket(stream, server_side=True)
    streams(bound(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", int(where))), wrap)
else:
    streams(bound(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", int(where))))
