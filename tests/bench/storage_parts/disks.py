"""A container's writable disk, by both engines, beside the host's own file system and QEMU's virtio-blk
with the same kernel, on files of the same file system."""
import shutil
import subprocess

import qemu_guest
from common import rounds, seconds

KINDS = ["seq-write", "seq-read", "rand-write", "rand-read", "many-write", "many-read", "flush"]
NAMES = {"seq-write": "{mib} MiB written", "seq-read": "{mib} MiB read", "rand-write": "{count} blocks of 4 KiB written anywhere",
         "rand-read": "{count} blocks of 4 KiB read anywhere", "many-write": "{count} written by 8 at once",
         "many-read": "{count} read by 8 at once", "flush": "{count}/8 written and flushed one by one"}
GOAL_OF = "QEMU virtio-blk"


def host(program, work, size):
    place = work / "on-host"
    place.mkdir(exist_ok=True)

    def run():
        out = subprocess.run([program, place, *size, *KINDS], check=True, stdout=subprocess.PIPE, text=True)
        return seconds(out.stdout)
    return run


def hull(engine, program, name, size, *options):
    engine.hull("run", "-d", "--name", name, *options, "busybox", "sleep", "100000")
    engine.hull("cp", str(program), f"{name}:/load")

    def run():
        return seconds(engine.hull("exec", name, "/load", "/tmp", *size, *KINDS))
    return run


def qemu(program, work, size):
    disk = work / "qemu.img"
    with open(disk, "wb") as file:
        file.truncate(1 << 30)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", disk], check=True)
    words = " ".join([*size, *KINDS])
    initramfs = qemu_guest.initramfs(work / "disk-initramfs", f"mount -t ext4 /dev/vda /mnt\nload /mnt {words}\numount /mnt", [program])
    options = ["-drive", f"id=disk,if=none,format=raw,file={disk}", "-device", "virtio-blk-device,drive=disk"]
    return lambda: seconds(qemu_guest.run(initramfs, *options))


def measure(engine, program, work, options):
    size = (str(options.mib), str(options.count))
    contenders = {"hull, io_uring": hull(engine, program, "bench-disk-ring", size),
                  "hull, synchronous": hull(engine, program, "bench-disk-vmm", size, "--annotation", "dev.hull.io-uring=false"),
                  "the host's own": host(program, work, size)}
    if shutil.which("qemu-system-x86_64"):
        contenders[GOAL_OF] = qemu(program, work, size)
    try:
        found = rounds(contenders, options.runs)
    finally:
        engine.hull("rm", "-f", "bench-disk-ring", "bench-disk-vmm")
    return {NAMES[kind].format(mib=options.mib, count=options.count): found[kind] for kind in KINDS}
