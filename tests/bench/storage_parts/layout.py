"""What a layer's data is best kept as: the uncompressed tar itself, into which EROFS metadata points at
blocks of 512 bytes, or the files' contents alone, each from a block of 4 KiB. Both are made of one tar by
mkfs.erofs, and read by a guest with Hull's kernel through QEMU's virtio-blk."""
import io
import os
import shlex
import subprocess
import tarfile
import time

import qemu_guest
from common import rounds, seconds

KINDS = {"seq": "{mib} MiB of one file read", "files": "{count} files of 1,000 bytes read",
         "rand": "{count} blocks of 4 KiB read anywhere", "map": "{count} pages of a mapped file read anywhere"}
GOAL_OF = "raw tar"
ALIGNED = "4 KiB-aligned"


def mkfs():
    """The mkfs.erofs that can read a tar (erofs-utils 1.7 and newer), as the start of a command, or None."""
    command = shlex.split(os.environ.get("MKFS_EROFS", "mkfs.erofs"))
    try:
        told = subprocess.run([*command, "--help"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except FileNotFoundError:
        return None
    return command if "--tar=" in told.stdout else None


def layer(path, mib, count):
    """A tar with what the program of the guest reads."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as out:
        def add(name, data=None):
            entry = tarfile.TarInfo(name)
            entry.mtime = 1_700_000_000
            if data is None:
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            else:
                entry.size = len(data)
            out.addfile(entry, io.BytesIO(data or b""))
        add("tree")
        for n in range(count):
            if n % 10 == 0:
                add(f"tree/d{n // 10}")
            add(f"tree/d{n // 10}/f{n}", os.urandom(1000))
        # As in a real layer, nothing makes the larger ones begin at a multiple of 4 KiB.
        for name in ("streamed", "data"):
            add(name, os.urandom(mib << 20))


def made(command, work, tar):
    """The disks of both layouts, by its name, and the seconds that each took."""
    disks, took = {}, {}
    for name, options in (GOAL_OF, ["--tar=i"]), (ALIGNED, ["--tar=f", "-b4096", "-Enoinline_data"]):
        image = work / f"layout-{options[0][-1]}.erofs"
        began = time.monotonic()
        subprocess.run([*command, "--quiet", *options, image, tar], check=True, stdout=subprocess.DEVNULL)
        took[name] = [time.monotonic() - began]
        disks[name] = [image, tar] if name == GOAL_OF else [image]
    return disks, took


def guest(program, work, disks, size):
    mount = "mount -t erofs -o ro" + (",device=/dev/vdb" if len(disks) > 1 else "")
    words = " ".join(word for kind in ("seq-read-cached", "files-read", "rand-read-cached", "map-read") for word in ("drop", kind))
    script = f"{mount} /dev/vda /mnt && load /mnt {' '.join(size)} {words}"
    initramfs = qemu_guest.initramfs(work / f"layout-{len(disks)}.cpio", script, [program])
    options = []
    for n, disk in enumerate(disks):
        options += ["-drive", f"id=d{n},if=none,format=raw,readonly=on,cache=none,file={disk}", "-device", f"virtio-blk-device,drive=d{n}"]
    # Of devices of QEMU's microvm, the one that is named first is the last that the guest finds.
    return lambda: {what.split("-")[0]: took for what, took in seconds(qemu_guest.run(initramfs, *options)).items()}


def measure(program, work, options):
    command = mkfs()
    if command is None:
        print("layout: left out: mkfs.erofs here reads no tar (erofs-utils before 1.7); name a newer one by MKFS_EROFS")
        return {}
    tar = work / "layout.tar"
    layer(tar, options.mib, options.count)
    disks, took = made(command, work, tar)
    for name, those in disks.items():
        print(f"layout: {name}: {sum(disk.stat().st_size for disk in those) / (1 << 20):.1f} MiB on disk")
    size = (str(options.mib), str(options.count))
    found = rounds({name: guest(program, work, those, size) for name, those in disks.items()}, options.runs)
    read = {told.format(mib=options.mib, count=options.count): found[kind] for kind, told in KINDS.items()}
    return {"made from a tar": took, **read}
