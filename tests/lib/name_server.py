#!/usr/bin/env python3
"""A name server that gives every name the same addresses.

usage: name_server.py LISTEN ADDRESS [ADDRESS...]

Answers A questions over UDP on LISTEN port 53 with all ADDRESSes (IPv4), others with nothing
(RFC 1035, section 4.1). It runs until it is killed.
"""
import socket
import sys

QUERY_TYPE = slice(-4, -2)
TYPE_A = b"\0\1"
# A pointer to the question's name, type A, class IN, a life of one second, four bytes of address.
RECORD_HEAD = b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4"


def answer(question, addresses):
    """The answer to one question: it has a header of 12 bytes and asks for one name."""
    records = addresses if question[QUERY_TYPE] == TYPE_A else []
    counts = b"\0\1" + len(records).to_bytes(2, "big") + bytes(4)
    body = b"".join(RECORD_HEAD + socket.inet_aton(address) for address in records)
    return question[:2] + b"\x81\x80" + counts + question[12:] + body


def main():
    listen, *addresses = sys.argv[1:]
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((listen, 53))
    while True:
        question, peer = server.recvfrom(512)
        server.sendto(answer(question, addresses), peer)


main()
