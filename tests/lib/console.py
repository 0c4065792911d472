"""usage: console.py SOCKET STEPS COMMAND...

Listens at a console socket as runc's callers do, runs COMMAND (which creates a container), takes
the terminal's master, and acts as STEPS says, a list separated by '|':
  write:TEXT     send it, with \\n and \\x03 understood
  expect:TEXT    read until it appears (20 s), else fail
  size:COLSxROWS change the terminal's size
  run:COMMAND    a shell command that must succeed
  sleep:SECONDS
  end            read to the end of the terminal
"""

import array
import fcntl
import os
import select
import socket
import struct
import subprocess
import sys
import termios
import time

LIMIT = 20


def take_master(path, command):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(1)
    created = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    listener.settimeout(LIMIT)
    connection, _ = listener.accept()
    _, ancillary, _, _ = connection.recvmsg(100, socket.CMSG_LEN(4))
    master = array.array("i", ancillary[0][2])[0]
    if created.wait() != 0:
        sys.exit("create failed")
    return master


def read(master, until):
    seen = b""
    end = time.monotonic() + LIMIT
    while until is None or until not in seen:
        left = end - time.monotonic()
        if left <= 0 or not select.select([master], [], [], left)[0]:
            sys.exit(f"no {until!r} in {seen!r}")
        try:
            data = os.read(master, 4096)
        except OSError:
            data = b""
        if not data:
            if until is None:
                return
            sys.exit(f"ended without {until!r}: {seen!r}")
        seen += data


def main():
    path, steps, *command = sys.argv[1:]
    master = take_master(path, command)
    for step in steps.split("|"):
        verb, _, value = step.partition(":")
        if verb == "write":
            os.write(master, value.encode().decode("unicode_escape").encode())
        elif verb == "expect":
            read(master, value.encode().decode("unicode_escape").encode())
        elif verb == "size":
            columns, rows = map(int, value.split("x"))
            fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            time.sleep(0.5)
        elif verb == "run":
            subprocess.run(value, shell=True, check=True, stdout=subprocess.DEVNULL)
        elif verb == "sleep":
            time.sleep(float(value))
        elif verb == "end":
            read(master, None)
        else:
            sys.exit(f"unknown step {step!r}")


main()
