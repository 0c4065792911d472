#!/usr/bin/env python3
"""usage: leaks.py --image IMAGE --steps N [--seconds N] [--even] [--seed N] --restart-hulld COMMAND --pid-file FILE

Random lives of a few containers, against a model of what their states must be, with kill -9 of
Hull's processes in between and in the middle of starts, with starts on a full disk, and with
networks and volumes that come and go. At the end all is removed, and the host must be as it was:
processes, namespaces, mounts, interfaces, packet rules, cgroups, files of the engine, their locks and
the disk space, its open files. The seed is printed; the same seed makes the same steps.

Steps that boot or end a VM, or the engine, take seconds; most others a fraction of one. So those come one
time in RARE, unless --even is given. After --seconds no further step begins, and the number of those that
were made is told. What each kind cost is printed last.
"""
import argparse
import json
import os
import random
import subprocess
import sys
import time

from host import LIMIT, Host, Wrong, attach, hull, open_files, pid_in, run, wait_until_as

SLOTS = 3
# How often a step that takes a fraction of a second comes for one that takes seconds.
RARE = 12


class Life:
    """A container and what it must be."""

    def __init__(self, name):
        self.name = name
        self.state = None
        self.networks = set()

    def vmm(self):
        return json.loads(hull("inspect", "--vm", self.name))[0]["vmm_pid"]


class Model:
    def __init__(self, arguments):
        self.arguments = arguments
        self.random = random.Random(arguments.seed)
        self.lives = [Life(f"t-leak{number}") for number in range(SLOTS)]
        # Of each kind: how often, and seconds.
        self.costs = {}

    def steps(self, life):
        """What can be done to a container as it is."""
        return {
            None: [
                self.create, self.create, self.empty_network, self.empty_volume, self.start_new,
                self.start_on_a_full_disk, self.cut_start, self.other_network, self.other_volume,
            ],
            "created": [self.start, self.remove, self.connect],
            "exited": [self.start, self.remove, self.restart],
            "running": [
                self.execute, self.stop, self.kill, self.pause, self.force, self.connect,
                self.kill_vmm, self.kill_shim, self.kill_engine, self.copy, self.kill_client,
            ],
            "paused": [self.unpause, self.force, self.kill_vmm, self.kill_engine],
        }[life.state]

    def step(self):
        life = self.random.choice(self.lives)
        steps = self.steps(life)
        weights = [1 if self.arguments.even or step in self.slow() else RARE for step in steps]
        (action,) = self.random.choices(steps, weights)
        print(f"{life.name} ({life.state}): {action.__name__}", flush=True)
        begun = time.monotonic()
        action(life)
        self.check()
        count, seconds = self.costs.get(action.__name__, (0, 0.0))
        self.costs[action.__name__] = count + 1, seconds + time.monotonic() - begun

    def slow(self):
        """Steps that boot or end a VM or the engine."""
        return [
            self.start_new, self.start_on_a_full_disk, self.cut_start, self.other_network, self.other_volume,
            self.start, self.restart, self.stop, self.kill, self.force, self.kill_vmm, self.kill_shim,
            self.kill_engine, self.kill_client,
        ]

    def check(self):
        """One question for all: most steps take less time than their question."""
        until = time.monotonic() + LIMIT
        while True:
            lines = hull("ps", "-a", "--format", "{{.Names}} {{.State}}").splitlines()
            actual = dict(line.split(" ", 1) for line in lines)
            wrong = [life for life in self.lives if actual.get(life.name) != life.state]
            if not wrong:
                return
            if until < time.monotonic():
                life = wrong[0]
                raise Wrong(f"{life.name} is {actual.get(life.name)}, not {life.state}")
            time.sleep(0.2)

    def tell_costs(self):
        rows = sorted(self.costs.items(), key=lambda row: -row[1][1])
        for name, (count, seconds) in rows:
            print(f"  {name:22}{count:5} times, {seconds / count:6.2f} s each")

    def options(self):
        some = ["-v", "t-leakv:/v"], ["--network", "t-leakn"], ["-p", "127.0.0.1::80"], ["-m", "64m"]
        chosen = [option for option in some if self.random.random() < 0.4]
        return [word for option in chosen for word in option]

    def create(self, life):
        hull("create", "--name", life.name, *self.options(), self.arguments.image, "sleep", "600")
        life.state = "created"

    def start_new(self, life):
        hull("run", "-d", "--name", life.name, *self.options(), self.arguments.image, "sleep", "600")
        life.state = "running"

    def start_on_a_full_disk(self, life):
        """Once, and anywhere in the engine's part of a start."""
        calls = self.random.choice(["openat", "mkdir", "ftruncate", "pwrite64"])
        nth = self.random.randrange(1, 40)
        options = ["-e", f"trace={calls}", "-e", f"inject={calls}:error=ENOSPC:when={nth}"]
        tracer = attach(self.arguments.pid_file, "/dev/null", options)
        try:
            hull("run", "-d", "--name", life.name, *self.options(), self.arguments.image, "sleep", "600",
                 want=None)
        finally:
            tracer.terminate()
            tracer.wait()
        hull("rm", "-f", life.name, want=None)

    def cut_start(self, life):
        starting = subprocess.Popen(
            ["hull", "run", "-d", "--name", life.name, *self.options(), self.arguments.image, "sleep", "600"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        time.sleep(self.random.random() * 2)
        self.kill_engine(life)
        starting.wait(timeout=LIMIT)
        hull("rm", "-f", life.name, want=None)

    def other_network(self, life):
        hull("network", "create", "t-leako")
        hull("run", "--rm", "--name", life.name, "--network", "t-leako", self.arguments.image, "true")
        hull("network", "rm", "t-leako")

    def other_volume(self, life):
        hull("volume", "create", "t-leakw")
        hull("run", "--rm", "--name", life.name, "-v", "t-leakw:/w", self.arguments.image, "touch", "/w/f")
        hull("volume", "rm", "t-leakw")

    def empty_network(self, _life):
        hull("network", "create", "t-leako")
        hull("network", "rm", "t-leako")

    def empty_volume(self, _life):
        hull("volume", "create", "t-leakw")
        hull("volume", "rm", "t-leakw")

    def start(self, life):
        hull("start", life.name)
        life.state = "running"

    restart = start

    def remove(self, life):
        hull("rm", life.name)
        life.state = None
        life.networks.clear()

    def force(self, life):
        hull("rm", "-f", life.name)
        life.state = None
        life.networks.clear()

    def execute(self, life):
        status = self.random.choice([0, 3])
        hull("exec", life.name, "sh", "-c", f"echo x >>/f; exit {status}", want=status)

    def copy(self, life):
        hull("cp", "/etc/hostname", f"{life.name}:/copied")

    def stop(self, life):
        hull("stop", "-t", "0", life.name)
        life.state = "exited"

    def kill(self, life):
        hull("kill", life.name)
        life.state = "exited"

    def pause(self, life):
        hull("pause", life.name)
        life.state = "paused"

    def unpause(self, life):
        hull("unpause", life.name)
        life.state = "running"

    def connect(self, life):
        if life.networks:
            hull("network", "disconnect", "t-leakm", life.name)
            life.networks.clear()
        else:
            hull("network", "connect", "t-leakm", life.name)
            life.networks.add("t-leakm")

    def kill_vmm(self, life):
        if life.state == "paused":
            hull("unpause", life.name)
        os.kill(life.vmm(), 9)
        life.state = "exited"

    def kill_shim(self, life):
        with open(f"/proc/{life.vmm()}/stat") as file:
            shim = int(file.read().rsplit(")", 1)[1].split()[1])
        os.kill(shim, 9)
        life.state = "exited"

    def kill_client(self, life):
        client = subprocess.Popen(
            ["hull", "exec", life.name, "sleep", "1"], stdout=subprocess.DEVNULL
        )
        time.sleep(self.random.random())
        client.kill()
        client.wait()

    def kill_engine(self, _life):
        os.kill(pid_in(self.arguments.pid_file), 9)
        run("sh", "-c", self.arguments.restart_hulld)

    def clear(self):
        for life in self.lives:
            if life.state is not None:
                self.force(life)
        self.check()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--image", required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--even", action="store_true")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--restart-hulld", required=True)
    parser.add_argument("--pid-file", required=True)
    parser.add_argument("--state", action="append", default=[])
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}, {arguments.steps} steps", flush=True)
    model = Model(arguments)
    try:
        # A network's bridge and its rules come with its first container, and stay as long as it; the
        # default network's, too.
        hull("run", "--rm", arguments.image, "true")
        for network in ("t-leakn", "t-leakm"):
            hull("network", "create", network)
            hull("run", "--rm", "--network", network, "-v", "t-leakv:/v", arguments.image, "true")
        before, files = Host(arguments.state), open_files(arguments.pid_file)
        made, until = 0, time.monotonic() + arguments.seconds
        while made < arguments.steps and time.monotonic() < until:
            model.step()
            made += 1
        model.clear()
        wait_until_as(before, arguments.state)
        if (now := open_files(arguments.pid_file)) > files + 4:
            raise Wrong(f"the engine has {now} open files, {files} before")
    except Wrong as wrong:
        print(f"failed (seed {arguments.seed}): {wrong}")
        return 1
    finally:
        hull("network", "rm", "t-leakn", "t-leakm", want=None)
        hull("volume", "rm", "t-leakv", want=None)
    model.tell_costs()
    print(f"{made} steps of {arguments.steps}, and the host is as it was")
    return 0


sys.exit(main())
