"""What both random tests stand on: commands that are checked, and what Hull could leave on a host."""
import collections
import os
import re
import subprocess
import time

# What takes longer than this to be as it should is wrong, in seconds.
LIMIT = 40
# What records and logs may grow by, in bytes.
GROWTH = 16 << 20


class Wrong(Exception):
    """What does not fit the model."""


def run(*command, want=0):
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if want is not None and done.returncode != want:
        text = (done.stdout + done.stderr).strip()
        raise Wrong(f"{' '.join(command)}: exit status {done.returncode}, not {want}: {text}")
    return done.stdout


def hull(*arguments, want=0):
    return run("hull", *arguments, want=want)


def processes(pattern):
    """PIDs and command lines of Hull's processes."""
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/cmdline", "rb") as file:
                line = file.read().replace(b"\0", b" ").decode(errors="replace").strip()
            with open(f"/proc/{entry}/stat") as file:
                state = file.read().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue
        if re.match(pattern, line) and state not in "ZX":
            found[int(entry)] = line
    return found


# The engine is not one of them: it stays.
HULLS = r"(hull-vmm|\S*containerd-shim-hull|\S*virtiofsd|\S*hull-unpack)"


def namespaces():
    """Of all processes."""
    found = set()
    for pid in processes(""):
        try:
            found |= {os.readlink(f"/proc/{pid}/ns/{kind}") for kind in os.listdir(f"/proc/{pid}/ns")}
        except OSError:
            continue
    return found


def space(state):
    """Bytes on disk."""
    total = 0
    for top in state:
        for path, _, files in os.walk(top):
            for name in files:
                try:
                    total += os.lstat(os.path.join(path, name)).st_blocks * 512
                except FileNotFoundError:
                    continue
    return total


def locks(state):
    """Locked files of the engine: their inodes, which /proc/locks names."""
    paths = [os.path.join(path, name) for top in state for path, _, files in os.walk(top) for name in files]
    inodes = {os.lstat(path).st_ino for path in paths if os.path.lexists(path)}
    with open("/proc/locks") as file:
        lines = [line.split() for line in file]
    numbers = [int(word.rsplit(":", 1)[1]) for line in lines for word in line if word.count(":") == 2]
    return [number for number in numbers if number in inodes]


class Host:
    """What Hull could leave behind."""

    def __init__(self, state):
        self.facts = collections.OrderedDict(
            processes=sorted(processes(HULLS).values()),
            mounts=sorted(line.split()[1] for line in open("/proc/mounts")),
            interfaces=sorted(os.listdir("/sys/class/net")),
            rules=sorted(
                re.sub(r"(handle|packets|bytes) \d+", "", line).strip()
                for line in run("nft", "list", "ruleset", want=None).splitlines()
            ),
            namespaces=sorted(namespaces()),
            locks=sorted(locks(state)),
            cgroups=sorted(path for path, _, _ in os.walk("/sys/fs/cgroup")),
            files=sorted(
                os.path.join(path, name)
                for top in state
                for path, folders, files in os.walk(top)
                for name in folders + files
            ),
        )
        self.space = space(state)

    def differences(self, before):
        for name, facts in self.facts.items():
            gone = [fact for fact in before.facts[name] if fact not in facts]
            new = [fact for fact in facts if fact not in before.facts[name]]
            if gone or new:
                yield f"{name}: new {new}, gone {gone}"
        if before.space + GROWTH < self.space:
            yield f"space: {self.space} bytes, {before.space} before"


def pid_in(pid_file):
    with open(pid_file) as file:
        return int(file.read())


def open_files(pid_file):
    return len(os.listdir(f"/proc/{pid_in(pid_file)}/fd"))


def attach(pid_file, trace, options):
    """strace on the threads that the process has, and not on those that it makes."""
    pid = pid_in(pid_file)
    threads = os.listdir(f"/proc/{pid}/task")
    command = ["strace", "-q", "-o", trace, *options]
    command += [word for thread in threads for word in ("-p", thread)]
    tracer = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    until = time.monotonic() + LIMIT
    while any(tracer_of(pid, thread) not in (None, tracer.pid) for thread in threads):
        if tracer.poll() is not None or until < time.monotonic():
            raise Wrong(f"strace does not attach to {pid}")
        time.sleep(0.05)
    return tracer


def tracer_of(pid, thread):
    """`None` for a thread that has ended."""
    try:
        with open(f"/proc/{pid}/task/{thread}/status") as file:
            return int(re.search(r"TracerPid:\s+(\d+)", file.read()).group(1))
    except (FileNotFoundError, ProcessLookupError):
        return None


def wait_until_as(before, state, limit=LIMIT):
    """Waits until the host is as it was."""
    until = time.monotonic() + limit
    while left := list(Host(state).differences(before)):
        if until < time.monotonic():
            raise Wrong("left behind: " + "; ".join(left))
        time.sleep(0.5)
