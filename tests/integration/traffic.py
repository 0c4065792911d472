#!/usr/bin/env python3
"""Traffic for tests of networks, on the host and in containers (`python3 - COMMAND ... <traffic.py`).

  serve PORT                     answers TCP and UDP on all addresses: `sum N` and N bytes with their
                                 sha256, `give N` with N bytes and their sha256, anything else with itself
  put ADDRESS PORT BYTES         sends bytes by TCP; the other end tells their sha256
  get ADDRESS PORT BYTES         fetches bytes by TCP, with their sha256
  datagrams ADDRESS PORT BYTES   sends bytes by UDP, each datagram again until it is answered
  connect ADDRESS PORT COUNT     makes so many connections, some at a time, each with an answer; fails
                                 unless all have one
  hold PORT                      answers what comes by TCP with itself, on many connections at once
  together ADDRESS PORT COUNT    as `connect`, and all of them are open until the last has its answer
  syn ADDRESS PORT SECONDS       sends SYNs that nobody goes on with
  questions ADDRESS COUNT NAME   asks a name server, 60 questions at a time; every fifth is none. How many
                                 are answered in a second is said on stderr
"""
import hashlib
import os
import random
import selectors
import socket
import struct
import sys
import threading
import time

PIECE = 1 << 16
DATAGRAM = 1200
AT_A_TIME = int(os.environ.get("AT_A_TIME", "100"))


def noise(count):
    """The same bytes each time, so that both ends know them."""
    whole = random.Random(count).randbytes(PIECE)
    while count > 0:
        piece = whole[: min(count, PIECE)]
        count -= len(piece)
        yield piece
        whole = whole[1:] + whole[:1]


def line(connection):
    text = b""
    while not text.endswith(b"\n"):
        got = connection.recv(1)
        if not got:
            return text
        text += got
    return text


def converse(connection):
    with connection:
        words = line(connection).split()
        if words[:1] == [b"sum"]:
            left, digest = int(words[1]), hashlib.sha256()
            while left:
                got = connection.recv(min(left, PIECE))
                if not got:
                    return
                digest.update(got)
                left -= len(got)
            connection.sendall(digest.hexdigest().encode() + b"\n")
        elif words[:1] == [b"give"]:
            digest = hashlib.sha256()
            for piece in noise(int(words[1])):
                digest.update(piece)
                connection.sendall(piece)
            connection.sendall(digest.hexdigest().encode())
        elif words:
            connection.sendall(b" ".join(words) + b"\n")


def serve(port):
    port = int(port)
    udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    udp.bind(("::", port))

    def answer():
        while True:
            data, peer = udp.recvfrom(PIECE)
            udp.sendto(data[:4] + hashlib.sha256(data).digest(), peer)

    threading.Thread(target=answer, daemon=True).start()
    listener = socket.create_server(("::", port), family=socket.AF_INET6, backlog=4096, dualstack_ipv6=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=converse, args=(connection,), daemon=True).start()


def put(address, port, count):
    count, digest = int(count), hashlib.sha256()
    with socket.create_connection((address, int(port)), 60) as connection:
        connection.sendall(b"sum %d\n" % count)
        for piece in noise(count):
            digest.update(piece)
            connection.sendall(piece)
        assert line(connection).decode().strip() == digest.hexdigest(), "another sum"
    print("same")


def get(address, port, count):
    count, digest = int(count), hashlib.sha256()
    with socket.create_connection((address, int(port)), 60) as connection:
        connection.sendall(b"give %d\n" % count)
        while count:
            got = connection.recv(min(count, PIECE))
            assert got, f"{count} bytes are missing"
            digest.update(got)
            count -= len(got)
        told = b""
        while got := connection.recv(PIECE):
            told += got
    assert told.decode() == digest.hexdigest(), "another sum"
    print("same")


def datagrams(address, port, count):
    family, _, _, _, where = socket.getaddrinfo(address, int(port), type=socket.SOCK_DGRAM)[0]
    one = socket.socket(family, socket.SOCK_DGRAM)
    one.connect(where)
    one.settimeout(0.5)
    again = 0
    for number in range(int(count) // DATAGRAM):
        data = struct.pack("!I", number) + os.urandom(DATAGRAM - 4)
        wanted = data[:4] + hashlib.sha256(data).digest()
        for _ in range(40):
            one.send(data)
            try:
                while (got := one.recv(PIECE))[:4] != data[:4]:
                    pass
            except TimeoutError:
                again += 1
                continue
            assert got == wanted, "a datagram was changed"
            break
        else:
            sys.exit(f"datagram {number} has no answer")
    assert again * 100 <= int(count) // DATAGRAM, f"{again} were sent again"
    print("same")


def hold(port):
    waiting = selectors.DefaultSelector()
    listener = socket.create_server(("::", int(port)), family=socket.AF_INET6, backlog=4096, dualstack_ipv6=True)
    waiting.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in waiting.select():
            if key.fileobj is listener:
                connection, _ = listener.accept()
                waiting.register(connection, selectors.EVENT_READ)
                continue
            try:
                text = key.fileobj.recv(PIECE)
                key.fileobj.sendall(text)
            except OSError:
                text = b""
            if not text:
                waiting.unregister(key.fileobj)
                key.fileobj.close()


def together(address, port, count):
    connect(address, port, count, held=[])


def connect(address, port, count, held=None):
    """`held`: where connections stay open."""
    count, waiting, done, failed = int(count), selectors.DefaultSelector(), 0, 0
    family, _, _, _, where = socket.getaddrinfo(address, int(port), type=socket.SOCK_STREAM)[0]
    begun = 0
    while done + failed < count:
        while begun < count and len(waiting.get_map()) < AT_A_TIME:
            one = socket.socket(family, socket.SOCK_STREAM)
            one.setblocking(False)
            one.connect_ex(where)
            waiting.register(one, selectors.EVENT_WRITE, begun)
            begun += 1
        ready = waiting.select(60)
        if not ready:
            break
        for key, events in ready:
            one, text = key.fileobj, b"hello %d\n" % key.data
            try:
                if events & selectors.EVENT_WRITE:
                    one.send(text)
                    waiting.modify(one, selectors.EVENT_READ, key.data)
                    continue
                assert one.recv(PIECE) == text
                done += 1
            except (OSError, AssertionError):
                failed += 1
            waiting.unregister(one)
            if held is None:
                one.close()
            else:
                held.append(one)
    print(done)
    sys.exit(done != count)


def syn(address, port, seconds):
    """Needs CAP_NET_RAW."""
    probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    probe.connect((address, 9))
    own, other = socket.inet_aton(probe.getsockname()[0]), socket.inet_aton(address)
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
    raw.connect((address, 0))
    pseudo = sum(struct.unpack("!4H", own + other)) + socket.IPPROTO_TCP + 20
    end, sent = time.monotonic() + float(seconds), 0
    while time.monotonic() < end:
        for _ in range(64):
            source = 1024 + sent % 64000
            fields = [source, int(port), sent >> 16 & 0xFFFF, sent & 0xFFFF, 0, 0, 0x5002, 64240, 0, 0]
            total = pseudo + sum(fields)
            total = (total & 0xFFFF) + (total >> 16)
            total = (total & 0xFFFF) + (total >> 16)
            fields[8] = ~total & 0xFFFF
            try:
                raw.send(struct.pack("!10H", *fields))
            except OSError:
                time.sleep(0.001)
            sent += 1
    print(sent)


def no_question(number, whole, tail):
    return [
        os.urandom(number % 600 + 1),
        whole[: number % len(whole)] or b"\0",
        # A name that points at itself; labels without an end; many questions; an answer.
        whole[:12] + b"\xc0\x0c" + tail[-4:],
        whole[:12] + b"\x3f" + b"a" * 300,
        struct.pack("!6H", 1, 0x100, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF) + tail,
        struct.pack("!6H", 1, 0x8180, 1, 0, 0, 0) + tail,
    ][number % 6]


def questions(address, count, name):
    server = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    server.connect((address, 53))
    server.settimeout(1)
    labels = b"".join(bytes((len(part),)) + part for part in name.encode().split(b".")) + b"\0"
    tail = labels + struct.pack("!2H", 1, 1)
    whole = struct.pack("!6H", 1, 0x100, 1, 0, 0, 0) + tail
    count = int(count)
    wanted, answered, begun = count - count // 5, 0, time.monotonic()
    for first in range(0, wanted, 48):
        left = {number & 0xFFFF for number in range(first + 2, min(first + 48, wanted) + 2)}
        for number in range(len(left) // 4):
            server.send(no_question(first // 4 + number, whole, tail))
        for _ in range(4):
            for ident in left:
                server.send(struct.pack("!6H", ident, 0x100, 1, 0, 0, 0) + tail)
            try:
                while left:
                    got = server.recv(PIECE)
                    ident = struct.unpack("!H", got[:2])[0]
                    if ident in left and got[3] & 15 == 0 and struct.unpack("!H", got[6:8])[0] == 1:
                        left.remove(ident)
                        answered += 1
            except TimeoutError:
                continue
            break
    print(f"{answered} of {wanted}")
    print(int(answered / (time.monotonic() - begun)), file=sys.stderr)


globals()[sys.argv[1]](*sys.argv[2:])
