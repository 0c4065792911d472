"""A directory of the host in a container, beside QEMU with the same virtiofsd and kernel."""
import shutil
import subprocess
import time

import qemu_guest
from common import rounds, seconds

KINDS = ["small-files", "drop", "walk", "stream-write", "drop", "stream-read"]
NAMES = {"small-files": "{count} small files made", "walk": "{count} files looked at, as `git status` does",
         "stream-write": "{mib} MiB written", "stream-read": "{mib} MiB read"}
GOAL_OF = "QEMU, virtiofsd"


def hull(engine, program, work, size):
    place = work / "share-hull"
    place.mkdir()
    engine.hull("run", "-d", "--name", "bench-share", "--privileged", "-v", f"{place}:/shared", "busybox", "sleep", "100000")
    engine.hull("cp", str(program), "bench-share:/load")
    return lambda: seconds(engine.hull("exec", "bench-share", "/load", "/shared", *size, *KINDS))


def qemu(program, work, size):
    place, socket = work / "share-qemu", work / "share.sock"
    place.mkdir()
    words = " ".join([*size, *KINDS])
    initramfs = qemu_guest.initramfs(work / "share-initramfs", f"mount -t virtiofs shared /mnt\nload /mnt {words}\numount /mnt", [program])

    def run():
        server = subprocess.Popen([qemu_guest.ROOT / "dist/libexec/hull/virtiofsd", "--shared-dir", place, "--socket-path", socket,
                                   "--announce-submounts", "--log-level", "error"])
        while not socket.exists():
            time.sleep(0.05)
        try:
            return seconds(qemu_guest.run(
                initramfs, "-chardev", f"socket,id=fs,path={socket}", "-device", "vhost-user-fs-device,chardev=fs,tag=shared",
                "-object", "memory-backend-memfd,id=memory,size=128M,share=on", "-machine", "memory-backend=memory"))
        finally:
            server.kill()
            server.wait()
            socket.unlink(missing_ok=True)
    return run


def measure(engine, program, work, options):
    size = (str(options.mib), str(options.count))
    contenders = {"hull": hull(engine, program, work, size)}
    if shutil.which("qemu-system-x86_64"):
        contenders[GOAL_OF] = qemu(program, work, size)
    try:
        found = rounds(contenders, options.runs)
    finally:
        engine.hull("rm", "-f", "bench-share")
    return {NAMES[kind].format(mib=options.mib, count=options.count): found[kind] for kind in KINDS if kind != "drop"}
