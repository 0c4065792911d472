#!/usr/bin/env python3
"""usage: faults.py --image IMAGE --attempts N [--seed N] [--fault NAME]... --pid-file FILE
                 --restart-hulld COMMAND --state FOLDER... WRAPPERS

Starts of a container, and pulls of its image, in which a system call of Hull's fails: descriptors,
memory or the disk run out, or a device has an error. Each call may be the one. Whatever fails, they
end in time: as they should, or with an error that says why; nothing of Hull's panics, the engine
goes on, and then the host must be as it was. The seed is printed; the same seed makes the same
faults. --fault tries one by its name, as it is printed.

WRAPPERS is a folder with programs that stand in for Hull's own: each runs the real one under strace
with the options in `PROGRAM.options`, where there are any, and strace writes to `PROGRAM.trace`.
The engine, of which PID_FILE tells, is attached to: the threads that it has.
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

from host import Host, Wrong, attach, hull, pid_in, run, wait_until_as

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
# Rust programs end where memory for themselves cannot be had.
MAY_END = "mmap", "mprotect", "munmap", "madvise"
ENGINE = "hulld"
NAME = "t-fault"
# What takes longer hangs, in seconds. What is under strace takes several times as long as else.
HANG = 120
# The number is there where several are traced.
CALL = re.compile(r"^(\d+ +)?(\w+)\(")
# What a program of Rust or C ends by when it finds itself broken.
BROKEN = re.compile(r"--- (SIG(?:ABRT|SEGV|BUS|ILL|SYS|TRAP|FPE))")
# The kernel has no error for them, and event loops rely on it.
NEVER_FAILS = "<anon_inode:[eventfd]>"
SIGNALS = "-y -e signal=SIGABRT,SIGSEGV,SIGBUS,SIGILL,SIGSYS,SIGTRAP,SIGFPE"


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

    def injected(self, fault):
        """What a call that failed was about."""
        lines = self.trace(fault.split()[1]).splitlines()
        return "\n".join(line for line in lines if "(INJECTED)" in line or line.startswith("+++"))

    def engine_lives(self):
        return hull("version", want=None) != "" and os.path.exists(f"/proc/{self.engine()}")

    def engine(self):
        return pid_in(self.pid_file)

    @contextlib.contextmanager
    def set(self, program, options):
        """Traces one program, and not those that it starts."""
        options = f"{SIGNALS} {options}"
        with contextlib.suppress(FileNotFoundError):
            os.remove(self.trace_file(program))
        attached = None
        if program == ENGINE:
            attached = attach(self.pid_file, self.trace_file(ENGINE), options.split())
        else:
            self.write_options(program, options)
        try:
            yield
        finally:
            if attached:
                attached.terminate()
                attached.wait()
            else:
                self.write_options(program, "")

    def write_options(self, program, text):
        with open(os.path.join(self.folder, f"{program}.options"), "w") as file:
            file.write(text)


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
    programs = ENGINE, "start", "shim", "hull-vmm"

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
    most = collections.Counter()
    for program in deed.programs:
        with tracing.set(program, f"-e trace={','.join(wanted)}"):
            status, out, err = deed.run()
        if status != 0 or not deed.done_well(out):
            raise Wrong(f"a {deed.name} under strace: status {status}, {out!r}, {err}")
        by_thread = collections.Counter()
        for line in tracing.trace(program).splitlines():
            if found := CALL.match(line):
                by_thread[found.groups()] += 1
        for (_, call), count in by_thread.items():
            most[program, call] = max(most[program, call], count)
    return most


def faults(deed, most):
    """All that can be tried, a list for each program, call and error: "DEED PROGRAM CALL ERROR N",
    N: the how manieth call of a thread."""
    return [
        [f"{deed.name} {program} {call} {error} {nth}" for nth in range(1, count + 1)]
        for (program, call), count in sorted(most.items())
        for error, names in FAULTS.items()
        if call in names and not (program == ENGINE and call in MAY_END)
    ]


def attempt(tracing, deed, fault):
    """Tries one fault. Returns what came of it."""
    _, program, call, error, nth = fault.split()
    with tracing.set(program, f"-e trace={call} -e inject={call}:error={error}:when={nth}"):
        status, out, err = deed.run()
    trace = tracing.trace(program)
    if status is None:
        raise Wrong(f"a {deed.name} hangs: {err}")
    if NEVER_FAILS in tracing.injected(fault):
        return "not possible", ""
    if (broken := BROKEN.search(trace)) and call not in MAY_END:
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
    kinds = [kind for deed in deeds for kind in faults(deed, calls(tracing, deed))]
    # A kind first: most calls are of few kinds.
    chance = random.Random(arguments.seed)
    chosen = [chance.choice(chance.choice(kinds)) for _ in range(arguments.attempts)]
    total = sum(map(len, kinds))
    print(f"seed {arguments.seed}: {len(chosen)} of {total} faults of {len(kinds)} kinds", flush=True)
    return chosen


def settle(before, arguments):
    """Waits until the host is as it was. What could not be removed is removed by the next start."""
    try:
        wait_until_as(before, arguments.state, limit=5)
        return ""
    except Wrong:
        hull("run", "--rm", arguments.image, "true")
        wait_until_as(before, arguments.state)
        return ", collected by the next start"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--image", required=True)
    parser.add_argument("--attempts", type=int, default=1)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--fault", action="append", default=[])
    parser.add_argument("--pid-file", required=True)
    parser.add_argument("--restart-hulld", required=True)
    parser.add_argument("--state", action="append", default=[])
    parser.add_argument("wrappers")
    arguments = parser.parse_args()
    tracing = Tracing(arguments.wrappers, arguments.pid_file)
    deeds = Start(arguments.image), Pull(arguments.image)
    hull("run", "--rm", "-v", "t-faultv:/v", arguments.image, "true")
    chosen = choose(tracing, deeds, arguments)
    before, outcomes, wrong = Host(arguments.state), collections.Counter(), 0
    for fault in chosen:
        deed = next(deed for deed in deeds if deed.name == fault.split()[0])
        begun = time.monotonic()
        try:
            outcome, words = attempt(tracing, deed, fault)
            hull("pull", "-q", arguments.image)
            outcome += settle(before, arguments)
            if not tracing.engine_lives():
                raise Wrong("the engine has ended")
        except (Wrong, FileNotFoundError) as error:
            outcome, words, wrong = "WRONG", f"{error}\n{tracing.injected(fault)}", wrong + 1
            if not tracing.engine_lives():
                run("sh", "-c", arguments.restart_hulld)
            before = Host(arguments.state)
        outcomes[outcome] += 1
        print(f"{fault}: {outcome} ({time.monotonic() - begun:.1f} s) {words}", flush=True)
    if hull("run", "--rm", arguments.image, "echo", "well") != "well\n":
        raise Wrong("no start after all faults")
    hull("volume", "rm", "t-faultv")
    print(", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())))
    return 1 if wrong or not any("refused" in outcome for outcome in outcomes) else 0


sys.exit(main())
