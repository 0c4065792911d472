#!/usr/bin/env python3
"""UDP that a sender leaves to others to segment (UDP_SEGMENT, udp(7)).

  segmented.py send ADDRESS PORT     sends PIECES datagrams of SIZE bytes by one call
  segmented.py receive ADDRESS PORT  says "ready", counts what comes for some seconds, checks each
"""
import socket
import sys

UDP_SEGMENT = 103
PIECES, SIZE = 30, 1000


def piece(number):
    return bytes([number]) * SIZE


def opened(address):
    return socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)


def send(address, port):
    end = opened(address)
    # Where the kernel asks who it is for, the frames that follow would wait for the answer.
    end.sendto(b"hello", (address, port))
    end.setsockopt(socket.SOL_UDP, UDP_SEGMENT, SIZE)
    end.sendto(b"".join(map(piece, range(PIECES))), (address, port))


def receive(address, port):
    end = opened(address)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * PIECES * SIZE)
    end.bind((address, port))
    end.settimeout(20)
    print("ready", flush=True)
    got = set()
    try:
        while len(got) < PIECES:
            data = end.recv(65536)
            if data != b"hello":
                got.add(data[0] if data == piece(data[0]) else "another one")
    except TimeoutError:
        pass
    print(f"{len(got)} of {PIECES} came as they were sent" if got <= set(range(PIECES)) else "others came")


what, address, port = sys.argv[1:]
{"send": send, "receive": receive}[what](address, int(port))
