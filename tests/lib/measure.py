"""What the benchmarks have in common: times in rounds, memory of a process, tables."""
import re
import statistics
import subprocess
import time
from pathlib import Path


def timed(args, **more):
    started = time.monotonic()
    subprocess.run(args, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, **more)
    return time.monotonic() - started


def overhead_pss(pid, guest_bytes):
    """PSS of a process in bytes, without the mapping that is the guest's memory."""
    total = size = pss = 0
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"^[0-9a-f]+-", line):
            if size < guest_bytes:
                total += pss
            low, high = (int(x, 16) for x in line.split()[0].split("-"))
            size, pss = high - low, 0
        elif line.startswith("Pss:"):
            pss = int(line.split()[1]) << 10
    return total + (pss if size < guest_bytes else 0)


def measure(contenders, runs):
    """Runs every contender once per round; the order turns, so that drift hits all alike."""
    samples = {name: [] for name in contenders}
    names = list(contenders)
    for round_ in range(runs + 1):
        turn = round_ % len(names)
        for name in names[turn:] + names[:turn]:
            seconds = contenders[name]()
            if round_:  # the first round only warms caches
                samples[name].append(seconds)
    return samples


def table(title, samples, base):
    if not samples:
        return
    print(f"\n{title}")
    print(f"  {'':28}{'median':>10}{'min':>10}{'max':>10}   ratio to {base}")
    reference = statistics.median(samples[base]) if base in samples else None
    for name, values in samples.items():
        median = statistics.median(values)
        ratio = f"{median / reference:8.2f}" if reference else ""
        print(f"  {name:28}{median * 1e3:8.1f}ms{min(values) * 1e3:8.1f}ms{max(values) * 1e3:8.1f}ms   {ratio}")
