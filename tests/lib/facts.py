#!/usr/bin/env python3
"""usage: facts.py ROOT

One line for each file below ROOT, with all that an unpacker must keep: kind and mode, owner, time, links, device,
size, content, attributes. Of a directory the time is told only where it has whole seconds: one that no entry
describes has none of its own.
"""
import hashlib
import os
import stat
import sys


def content(path):
    sum_ = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            sum_.update(part)
    return sum_.hexdigest()


def attributes(path):
    names = sorted(name for name in os.listxattr(path, follow_symlinks=False)
                   if not name.startswith(("trusted.overlay.", "user.overlay.", "security.selinux")))
    return " ".join(f"{name}={os.getxattr(path, name, follow_symlinks=False).hex()}" for name in names)


def main(root):
    first = {}
    for here, folders, files in os.walk(root):
        folders.sort()
        for name in sorted(folders + files):
            path = os.path.join(here, name)
            about, short = os.lstat(path), os.path.relpath(path, root)
            mode, what, size, links, time = about.st_mode, "-", "-", "-", about.st_mtime_ns
            if stat.S_ISDIR(mode):
                time = time if time % 10**9 == 0 and time else "-"
            else:
                # Names of one file, by the first of them.
                links = f"{about.st_nlink}:{first.setdefault(about.st_ino, short)!r}"
            if stat.S_ISREG(mode):
                what, size = content(path), about.st_size
            elif stat.S_ISLNK(mode):
                what = repr(os.readlink(path))
            elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
                what = f"{os.major(about.st_rdev)}:{os.minor(about.st_rdev)}"
            print(f"{short!r} {mode:o} {about.st_uid}:{about.st_gid} {time} {links} {size} {what} {attributes(path)}".rstrip())


main(os.fsencode(sys.argv[1]))
