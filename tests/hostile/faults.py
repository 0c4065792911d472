#!/usr/bin/env python3
"""usage: faults.py --image IMAGE --attempts N [--seed N] --state FOLDER... WRAPPERS

Starts of a container in which a system call of Hull's fails: descriptors, memory or the disk run
out, or a device has an error. Each call of a start may be the one. Whatever fails, a start ends in
time: with the container's own answer, or with an error that says why; and then the host must be as
it was. The seed is printed; the same seed makes the same faults.

WRAPPERS is a folder with programs that stand in for Hull's own: each runs the real one under strace
with the options in `PROGRAM.options`, where there are any, and strace writes to `PROGRAM.trace`.
"""
import argparse
import collections
import os
import random
import re
import subprocess
import sys

from host import Host, Wrong, hull, wait_until_as

PROGRAMS = "shim", "hull-vmm"
FAULTS = {
    "ENOSPC": ["openat", "mkdir", "mkdirat", "write", "pwrite64", "ftruncate", "fallocate", "symlink",
               "rename", "bind"],
    "EMFILE": ["openat", "socket", "socketpair", "pipe2", "eventfd2", "epoll_create1",
               "timerfd_create", "memfd_create", "accept4", "fcntl", "dup", "pidfd_open"],
    "ENOMEM": ["mmap", "mprotect", "munmap", "clone", "clone3", "ioctl", "mount", "unshare", "poll",
               "epoll_ctl", "madvise"],
    "EIO": ["read", "pread64", "write", "pwrite64", "readv", "writev", "ioctl", "lseek", "statx",
            "sendmsg", "recvmsg", "fsync"],
}
NAME = "t-fault"
# A start that takes longer hangs, in seconds. One under strace takes ten times as long as others.
HANG = 120
CALL = re.compile(r"^(\d+) +(\w+)\(")


class Wrappers:
    """The programs under strace."""

    def __init__(self, folder):
        self.folder = folder

    def options(self, program, text):
        with open(os.path.join(self.folder, f"{program}.options"), "w") as file:
            file.write(text)

    def trace(self, program):
        try:
            with open(os.path.join(self.folder, f"{program}.trace"), errors="replace") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def clear(self):
        for program in PROGRAMS:
            self.options(program, "")
            try:
                os.remove(os.path.join(self.folder, f"{program}.trace"))
            except FileNotFoundError:
                pass


def start(image):
    """Exit status, stdout and stderr of one run; None for the status of one that hangs."""
    command = ["hull", "run", "--rm", "--name", NAME, "-v", "t-faultv:/v", image, "echo", "alive"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=HANG)
    except subprocess.TimeoutExpired as hang:
        return None, "", str(hang.stderr)
    return done.returncode, done.stdout, done.stderr


def calls(wrappers, image):
    """How often a start makes each call, at most in one thread: (program, call) -> count."""
    wanted = sorted({call for names in FAULTS.values() for call in names})
    wrappers.clear()
    for program in PROGRAMS:
        wrappers.options(program, f"-e trace={','.join(wanted)}")
    status, out, err = start(image)
    if (status, out) != (0, "alive\n"):
        raise Wrong(f"a start under strace: status {status}, {out!r}, {err}")
    most = collections.Counter()
    for program in PROGRAMS:
        by_thread = collections.Counter()
        for line in wrappers.trace(program).splitlines():
            if found := CALL.match(line):
                by_thread[found.groups()] += 1
        for (_, call), count in by_thread.items():
            most[program, call] = max(most[program, call], count)
    return most


def faults(most):
    """All that can be tried: (program, call, error, the how manieth call of a thread)."""
    return [
        (program, call, error, nth)
        for (program, call), count in sorted(most.items())
        for error, names in FAULTS.items()
        if call in names
        for nth in range(1, count + 1)
    ]


def attempt(wrappers, image, fault):
    """Tries one fault. Returns what came of it."""
    program, call, error, nth = fault
    wrappers.clear()
    wrappers.options(program, f"-e trace={call} -e inject={call}:error={error}:when={nth}")
    status, out, err = start(image)
    subprocess.run(["hull", "rm", "-f", NAME], capture_output=True)
    injected = "(INJECTED)" in wrappers.trace(program)
    if status is None:
        raise Wrong(f"the start hangs: {err}")
    if "panicked" in err:
        raise Wrong(f"a panic reaches the user: {err}")
    if status == 0 and out != "alive\n":
        raise Wrong(f"a success without its output: {out!r} {err}")
    if status != 0 and not err.strip():
        raise Wrong(f"exit status {status} without a word")
    if not injected:
        return "not reached", ""
    return ("borne" if status == 0 else "refused"), err.strip()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--image", required=True)
    parser.add_argument("--attempts", type=int, required=True)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--state", action="append", default=[])
    parser.add_argument("wrappers")
    arguments = parser.parse_args()
    wrappers = Wrappers(arguments.wrappers)
    hull("run", "--rm", "-v", "t-faultv:/v", arguments.image, "true")
    every = faults(calls(wrappers, arguments.image))
    wrappers.clear()
    chosen = random.Random(arguments.seed).sample(every, min(arguments.attempts, len(every)))
    print(f"seed {arguments.seed}: {len(chosen)} of {len(every)} faults", flush=True)
    before, outcomes, wrong = Host(arguments.state), collections.Counter(), 0
    for fault in chosen:
        name = "{} {} {} {}".format(*fault)
        try:
            outcome, words = attempt(wrappers, arguments.image, fault)
            wait_until_as(before, arguments.state)
        except Wrong as error:
            outcome, words, wrong = "WRONG", str(error), wrong + 1
            before = Host(arguments.state)
        outcomes[outcome] += 1
        print(f"{name}: {outcome} {words}", flush=True)
    wrappers.clear()
    if hull("run", "--rm", arguments.image, "echo", "well") != "well\n":
        raise Wrong("no start after all faults")
    hull("volume", "rm", "t-faultv")
    print(", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())))
    return 1 if wrong or not outcomes["refused"] else 0


sys.exit(main())
