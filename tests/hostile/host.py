"""What both random tests stand on: commands that are checked, and what Hull could leave on a host."""
import collections
import os
import re
import subprocess
import time

# What takes longer than this to be as it should is wrong, in seconds.
LIMIT = 40


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


class Host:
    """What Hull could leave behind."""

    def __init__(self, state):
        self.facts = collections.OrderedDict(
            processes=sorted(
                processes(r"(hull-vmm|\S*containerd-shim-hull|\S*virtiofsd|\S*hull-unpack)").values()
            ),
            mounts=sorted(line.split()[1] for line in open("/proc/mounts")),
            interfaces=sorted(os.listdir("/sys/class/net")),
            rules=sorted(
                re.sub(r"(handle|packets|bytes) \d+", "", line).strip()
                for line in run("nft", "list", "ruleset", want=None).splitlines()
            ),
            cgroups=sorted(path for path, _, _ in os.walk("/sys/fs/cgroup")),
            files=sorted(
                os.path.join(path, name)
                for top in state
                for path, folders, files in os.walk(top)
                for name in folders + files
            ),
        )

    def differences(self, before):
        for name, facts in self.facts.items():
            gone = [fact for fact in before.facts[name] if fact not in facts]
            new = [fact for fact in facts if fact not in before.facts[name]]
            if gone or new:
                yield f"{name}: new {new}, gone {gone}"


def open_files(pid_file):
    with open(pid_file) as file:
        return len(os.listdir(f"/proc/{file.read().strip()}/fd"))


def wait_until_as(before, state):
    """Waits until the host is as it was."""
    until = time.monotonic() + LIMIT
    while left := list(Host(state).differences(before)):
        if until < time.monotonic():
            raise Wrong("left behind: " + "; ".join(left))
        time.sleep(0.5)
