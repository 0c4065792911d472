"""What the parts share: the program that does the work, and its figures."""
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "lib"))


def build_load(work):
    """The static program, in a folder of its own that containers and guests can have."""
    tools = work / "tools"
    tools.mkdir(exist_ok=True)
    program = tools / "load"
    subprocess.run(["gcc", "-O2", "-static", "-o", program, HERE / "load.c"], check=True)
    return program


def seconds(output):
    """`name seconds` lines, as a dictionary; the work that only prepares is left out."""
    pairs = (line.split() for line in output.splitlines() if len(line.split()) == 2)
    return {name: float(value) for name, value in pairs if name != "drop"}


def rounds(contenders, runs):
    """Runs every contender once per round, the order turned each round; the first round only warms up.
    A contender gives a dictionary of times: the result is {work: {contender: [times]}}."""
    samples, names = {}, list(contenders)
    for round_ in range(runs + 1):
        turn = round_ % len(names)
        for name in names[turn:] + names[:turn]:
            print(f"round {round_}: {name}", file=sys.stderr, flush=True)
            for what, took in contenders[name]().items():
                if round_:
                    samples.setdefault(what, {}).setdefault(name, []).append(took)
    return samples


def folder():
    """On the file system where engines keep their state."""
    base = Path("/var/lib/hull")
    base.mkdir(exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="bench.", dir=base))
