#!/usr/bin/env python3
"""usage: slow_proxy.py PORT UPSTREAM-PORT BYTES-A-SECOND

Passes connections on loopback on; what clients send goes at that rate, all of them together.
"""
import socket
import sys
import threading
import time

PORT, UPSTREAM, RATE = map(int, sys.argv[1:])
turn = threading.Lock()


def pass_on(source, target, rate):
    try:
        while data := source.recv(min(1 << 16, rate or 1 << 16)):
            if rate:
                with turn:
                    time.sleep(len(data) / rate)
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        source.close()
        target.close()


server = socket.create_server(("127.0.0.1", PORT))
while True:
    client, _ = server.accept()
    upstream = socket.create_connection(("127.0.0.1", UPSTREAM))
    threading.Thread(target=pass_on, args=(client, upstream, RATE), daemon=True).start()
    threading.Thread(target=pass_on, args=(upstream, client, 0), daemon=True).start()
