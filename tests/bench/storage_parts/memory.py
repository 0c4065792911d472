"""What containers of one image cost the host in memory: idle, and when each has read so much of the image.
The host's page cache holds the image once; each guest's page cache holds what that guest read."""
import json
import random
from pathlib import Path

import archives

IMAGE = "bench-memory"
READ = "cat /read/* >/dev/null"


def load_image(engine, work, mib):
    files = [archives.entry(f"read/{n}", data=random.Random(n).randbytes(1 << 20)) for n in range(mib)]
    archive = work / "memory.tar"
    archives.write_image(str(archive), [archives.busybox_layer(), archives.layer(archives.directory("read"), *files)])
    told = engine.hull("load", "-q", "-i", str(archive)).strip().split()[-1]
    archive.unlink()
    engine.hull("tag", told, IMAGE)


def available():
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) << 10


def cost(engine, names):
    """Bytes of the host that the VMs have: guest memory and the VMMs themselves."""
    vms = [json.loads(engine.hull("inspect", "--vm", name))[0] for name in names]
    return sum(vm["memory_resident_bytes"] + vm["vmm_overhead_bytes"] for vm in vms)


def measure(engine, work, options):
    mib, figures, names = options.read_mib, {}, []
    load_image(engine, work, mib)
    before = available()
    try:
        for count in options.containers:
            while len(names) < count:
                name = f"bench-memory-{len(names)}"
                # By annotation, not by a limit: room for the image in each guest's page cache.
                engine.hull("run", "-d", "--name", name, "--annotation", f"dev.hull.memory={128 + mib}m", "--network", "none",
                            IMAGE, "sleep", "100000")
                names.append(name)
            idle = cost(engine, names)
            figures[f"{count} idle"] = idle
            figures[f"{count} idle, of what was available"] = before - available()
            for name in names:
                engine.hull("exec", name, "sh", "-c", READ)
            figures[f"{count} that read {mib} MiB each"] = cost(engine, names)
            figures[f"{count} that read {mib} MiB each, of what was available"] = before - available()
    finally:
        for name in names:
            engine.hull("rm", "-f", name)
    return figures
