#!/usr/bin/env python3
"""usage: faults.py --image IMAGE --attempts N [--seed N] [--fault NAME]... --pid-file FILE
                 --state FOLDER... WRAPPERS

Starts of a container, and pulls of its image, in which a system call of Hull's fails: descriptors,
memory or the disk run out, or a device has an error. Each call may be the one. Whatever fails, they
end in time: as they should, or with an error that says why; nothing of Hull's panics, the engine
goes on, and then the host must be as it was. The seed is printed; the same seed makes the same
faults. --fault tries one by its name, as it is printed.

WRAPPERS is a folder with programs that stand in for Hull's own: each runs the real one under strace
with the options in `PROGRAM.options`, where there are any, and strace writes to `PROGRAM.trace`.
The engine, of which PID_FILE tells, is attached to.
"""
import argparse
import collections
import contextlib
import os
import random
import re
import subprocess
import sys
import time

from host import Host, Wrong, hull, wait_until_as

FAULTS = {
    "ENOSPC": ["openat", "mkdir", "mkdirat", "write", "pwrite64", "ftruncate", "fallocate", "symlink",
               "rename", "bind", "copy_file_range"],
    "EMFILE": ["openat", "socket", "socketpair", "pipe2", "eventfd2", "epoll_create1",
               "timerfd_create", "memfd_create", "accept4", "fcntl", "dup", "pidfd_open"],
    "ENOMEM": ["mmap", "mprotect", "munmap", "clone", "clone3", "ioctl", "mount", "unshare", "poll",
               "epoll_ctl", "madvise"],
    "EIO": ["read", "pread64", "write", "pwrite64", "readv", "writev", "ioctl", "lseek", "statx",
            "sendmsg", "recvmsg", "fsync", "fdatasync"],
}
ENGINE = "hulld"
NAME = "t-fault"
# What takes longer hangs, in seconds. What is under strace takes several times as long as else.
HANG = 120
CALL = re.compile(r"^(\d+) +(\w+)\(")
# What a program of Rust or C ends by when it finds itself broken.
BROKEN = re.compile(r"--- (SIG(?:ABRT|SEGV|BUS|ILL|SYS|TRAP|FPE))")
SIGNALS = "-e signal=SIGABRT,SIGSEGV,SIGBUS,SIGILL,SIGSYS,SIGTRAP,SIGFPE"


class Tracing:
    """The programs of Hull, each under strace where options are set for it."""

    def __init__(self, folder, pid_file):
        self.folder = folder
        self.pid_file = pid_file

    def trace_file(self, program):
        return os.path.join(self.folder, f"{program}.trace")

    def trace(self, program):
        with contextlib.suppress(FileNotFoundError):
            with open(self.trace_file(program), errors="replace") as file:
                return file.read()
        return ""

    def engine(self):
        with open(self.pid_file) as file:
            return int(file.read())

    @contextlib.contextmanager
    def set(self, programs, options):
        options = f"{SIGNALS} {options}"
        for program in programs:
            with contextlib.suppress(FileNotFoundError):
                os.remove(self.trace_file(program))
        wrapped = [program for program in programs if program != ENGINE]
        for program in wrapped:
            self.write_options(program, options)
        attached = self.attach(options) if ENGINE in programs else None
        try:
            yield
        finally:
            for program in wrapped:
                self.write_options(program, "")
            if attached:
                attached.terminate()
                attached.wait()

    def write_options(self, program, text):
        with open(os.path.join(self.folder, f"{program}.options"), "w") as file:
            file.write(text)

    def attach(self, options):
        pid = self.engine()
        command = ["strace", "-f", "-q", "-o", self.trace_file(ENGINE), "-p", str(pid)]
        tracer = subprocess.Popen([*command, *options.split()], stderr=subprocess.DEVNULL)
        until = time.monotonic() + HANG
        while any(self.tracer_of(pid, thread) != tracer.pid for thread in os.listdir(f"/proc/{pid}/task")):
            if tracer.poll() is not None or until < time.monotonic():
                raise Wrong(f"strace does not attach to {pid}")
            time.sleep(0.05)
        return tracer

    @staticmethod
    def tracer_of(pid, thread):
        with contextlib.suppress(FileNotFoundError):
            with open(f"/proc/{pid}/task/{thread}/status") as file:
                return int(re.search(r"TracerPid:\s+(\d+)", file.read()).group(1))


class Deed:
    """What is done while calls fail."""

    def __init__(self, image):
        self.image = image

    def command(self):
        raise NotImplementedError

    def prepare(self):
        pass

    def clean(self):
        pass

    def done_well(self, out):
        raise NotImplementedError

    def run(self):
        """Exit status, stdout and stderr; None for the status of what hangs."""
        self.prepare()
        try:
            done = subprocess.run(self.command(), capture_output=True, text=True, timeout=HANG)
            return done.returncode, done.stdout, done.stderr
        except subprocess.TimeoutExpired as hang:
            return None, "", str(hang.stderr)
        finally:
            self.clean()


class Start(Deed):
    name = "start"
    programs = ENGINE, "shim", "hull-vmm"

    def command(self):
        return ["hull", "run", "--rm", "--name", NAME, "-v", "t-faultv:/v", self.image, "echo", "alive"]

    def clean(self):
        hull("rm", "-f", NAME, want=None)

    def done_well(self, out):
        return out == "alive\n"


class Pull(Deed):
    """All layers of the image are fetched and unpacked again."""

    name = "pull"
    programs = ENGINE, "hull-unpack"

    def command(self):
        return ["hull", "pull", "-q", self.image]

    def prepare(self):
        hull("rmi", "-f", self.image, want=None)

    def done_well(self, out):
        return self.image in out


def calls(tracing, deed):
    """How often a deed makes each call, at most in one thread: (program, call) -> count."""
    wanted = sorted({call for names in FAULTS.values() for call in names})
    with tracing.set(deed.programs, f"-e trace={','.join(wanted)}"):
        status, out, err = deed.run()
    if status != 0 or not deed.done_well(out):
        raise Wrong(f"a {deed.name} under strace: status {status}, {out!r}, {err}")
    most = collections.Counter()
    for program in deed.programs:
        by_thread = collections.Counter()
        for line in tracing.trace(program).splitlines():
            if found := CALL.match(line):
                by_thread[found.groups()] += 1
        for (_, call), count in by_thread.items():
            most[program, call] = max(most[program, call], count)
    return most


def faults(deed, most):
    """All that can be tried: "DEED PROGRAM CALL ERROR N", N: the how manieth call of a thread."""
    return [
        f"{deed.name} {program} {call} {error} {nth}"
        for (program, call), count in sorted(most.items())
        for error, names in FAULTS.items()
        if call in names
        for nth in range(1, count + 1)
    ]


def attempt(tracing, deed, fault):
    """Tries one fault. Returns what came of it."""
    _, program, call, error, nth = fault.split()
    with tracing.set([program], f"-e trace={call} -e inject={call}:error={error}:when={nth}"):
        status, out, err = deed.run()
    trace = tracing.trace(program)
    if status is None:
        raise Wrong(f"a {deed.name} hangs: {err}")
    if broken := BROKEN.search(trace):
        raise Wrong(f"{program} ends by {broken.group(1)}: {err}")
    if "panicked" in err:
        raise Wrong(f"a panic reaches the user: {err}")
    if status == 0 and not deed.done_well(out):
        raise Wrong(f"a success without its output: {out!r} {err}")
    if status != 0 and not err.strip():
        raise Wrong(f"exit status {status} without a word")
    if "(INJECTED)" not in trace:
        return "not reached", ""
    return ("borne" if status == 0 else "refused"), err.strip()


def choose(tracing, deeds, arguments):
    if arguments.fault:
        return arguments.fault
    every = [fault for deed in deeds for fault in faults(deed, calls(tracing, deed))]
    chosen = random.Random(arguments.seed).sample(every, min(arguments.attempts, len(every)))
    print(f"seed {arguments.seed}: {len(chosen)} of {len(every)} faults", flush=True)
    return chosen


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--image", required=True)
    parser.add_argument("--attempts", type=int, default=1)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--fault", action="append", default=[])
    parser.add_argument("--pid-file", required=True)
    parser.add_argument("--state", action="append", default=[])
    parser.add_argument("wrappers")
    arguments = parser.parse_args()
    tracing = Tracing(arguments.wrappers, arguments.pid_file)
    deeds = Start(arguments.image), Pull(arguments.image)
    hull("run", "--rm", "-v", "t-faultv:/v", arguments.image, "true")
    chosen = choose(tracing, deeds, arguments)
    engine = tracing.engine()
    before, outcomes, wrong = Host(arguments.state), collections.Counter(), 0
    for fault in chosen:
        deed = next(deed for deed in deeds if deed.name == fault.split()[0])
        begun = time.monotonic()
        try:
            outcome, words = attempt(tracing, deed, fault)
            hull("pull", "-q", arguments.image)
            wait_until_as(before, arguments.state)
            hull("version")
            os.kill(engine, 0)
        except (Wrong, ProcessLookupError) as error:
            outcome, words, wrong = "WRONG", str(error), wrong + 1
            before = Host(arguments.state)
        outcomes[outcome] += 1
        print(f"{fault}: {outcome} ({time.monotonic() - begun:.1f} s) {words}", flush=True)
    if hull("run", "--rm", arguments.image, "echo", "well") != "well\n":
        raise Wrong("no start after all faults")
    hull("volume", "rm", "t-faultv")
    print(", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())))
    return 1 if wrong or not outcomes["refused"] else 0


sys.exit(main())
