"""A guest of QEMU's microvm machine with the kernel that Hull's guests have, for benchmarks: it runs one
script of busybox and ends."""
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KERNEL = ROOT / "dist/libexec/hull/vmlinux"
APPLETS = ("sh", "cat", "head", "mkdir", "mount", "umount", "ip", "reboot")


def archive(entries):
    """A cpio archive (newc): name, mode and bytes of each file."""
    out = bytearray()
    for inode, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        head = [inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0]
        out += b"070701" + b"".join(b"%08X" % field for field in head) + name.encode() + b"\0"
        out += bytes(-len(out) % 4) + data
        out += bytes(-len(out) % 4)
    return bytes(out)


def initramfs(path, script, programs=()):
    """Writes one whose init is `script`, with /dev, /proc and /sys mounted, and these programs in /bin."""
    links = "\n".join(f"/bin/busybox ln -s busybox /bin/{name}" for name in APPLETS)
    init = f"""#!/bin/busybox sh
        {links}
        mount -t devtmpfs dev /dev; mount -t proc proc /proc; mount -t sysfs sys /sys
        exec </dev/hvc0 >/dev/hvc0 2>&1
        {script}
        reboot -f"""
    files = [*((name, 0o40755, b"") for name in ("bin", "dev", "proc", "sys", "mnt", "tmp")),
             ("bin/busybox", 0o100755, Path("/bin/busybox").read_bytes()), ("init", 0o100755, init.encode()),
             *((f"bin/{program.name}", 0o100755, program.read_bytes()) for program in programs)]
    path.write_bytes(archive(files))
    return path


def run(initramfs, *options, memory="128M", patience=300):
    """Boots it, and returns what it printed."""
    args = ["qemu-system-x86_64", "-M", "microvm,accel=kvm,acpi=off,pic=off,pit=off,rtc=off,isa-serial=off,auto-kernel-cmdline=on",
            "-cpu", "host", "-m", memory, "-smp", "1", "-nodefaults", "-no-user-config", "-nographic", "-no-reboot",
            "-kernel", KERNEL, "-initrd", initramfs,
            "-append", "console=hvc0 quiet loglevel=1 rdinit=/init reboot=t panic=-1 tsc=reliable",
            "-chardev", "stdio,id=out", "-device", "virtio-serial-device", "-device", "virtconsole,chardev=out", *options]
    done = subprocess.run(args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=patience, env=os.environ)
    return done.stdout.decode(errors="replace")
