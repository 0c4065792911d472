#!/usr/bin/env python3
"""usage: stacks.py SEED COUNT OUT.tar
       stacks.py SEED COUNT --layers FOLDER

Writes an OCI layout archive (for `hull load`) with COUNT random stacks of layers side by side, each below a
directory of its own; or its layers alone, as FOLDER/0.tar and so on. Same seed, same image. Archives are such as
builders write: no path twice in one layer but behind a whiteout, and a hard link has its file's metadata.
"""
import random
import struct
import sys
import tarfile
from pathlib import Path

import archives
from archives import entry, raw

LAYERS = 5
NAMES = [b"a", b"b", b"c", b"d", b".e", b"with space\n", "ümlaut".encode(), b"\xff\xfe\x80", b"n" * 255]
FILE, DIRECTORY, SYMLINK = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE
KINDS = [FILE] * 6 + [DIRECTORY] * 6 + [SYMLINK] * 2 + [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]


def access_list(mode):
    """A POSIX access list that says of the three classes what `mode` does, and names a user."""
    entries = [(1, mode >> 6 & 7, 0xffffffff), (2, 7, 70_000), (4, 4, 0xffffffff), (16, mode >> 3 & 7, 0xffffffff),
               (32, mode & 7, 0xffffffff)]
    return raw(struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *each) for each in entries))


class Stack:
    """One random stack: what its layers so far come to, and the entries of the next one."""

    def __init__(self, dice, top):
        self.dice, self.top = dice, top
        self.tree = {}  # path -> what `entry` takes
        self.number = 0

    def layer(self):
        """The entries of one more layer."""
        self.entries, self.done, self.lower = [], set(), set(self.tree)
        if self.number == 0:
            self.put((self.top,), DIRECTORY)
        self.number += 1
        for _ in range(self.dice.randrange(1, 14)):
            self.dice.choice([self.make, self.make, self.make, self.link, self.link, self.hide, self.hide_below])()
        return self.entries

    def below(self, path):
        return [each for each in self.tree if each[:len(path)] == path and each != path]

    def is_free(self, path):
        """Whether this layer has nothing at this path or below it yet."""
        return not any(each[:len(path)] == path for each in self.done)

    def emit(self, path, **about):
        self.entries.append(entry(raw(b"/".join(path)), **about))

    def folder(self):
        folders = [path for path, about in self.tree.items() if about["kind"] == DIRECTORY]
        return self.dice.choice(folders)

    def put(self, path, kind):
        if kind != DIRECTORY or self.tree.get(path, {"kind": None})["kind"] != DIRECTORY:
            self.forget(path)
        self.tree[path] = self.about(kind)
        self.done.add(path)
        self.emit(path, **self.tree[path])

    def forget(self, path):
        for each in [path, *self.below(path)]:
            self.tree.pop(each, None)

    def about(self, kind):
        dice = self.dice
        seconds, fraction = dice.randrange(-2_000_000_000, 8_000_000_000), dice.choice([0, 1, 500_000_000, 999_999_999])
        about = {"kind": kind, "mode": 0o777 if kind == SYMLINK else dice.randrange(0o10000),
                 "uid": dice.choice([0, 1000, 65_535, 65_536, 4_000_000_000]), "gid": dice.choice([0, 5, 70_000, 4_294_967_294]),
                 "mtime": 0, "pax": {"mtime": f"{seconds}.{fraction:09d}"}}
        if kind == FILE:
            about["data"] = dice.randbytes(dice.choice([0, 1, 100, 4095, 4096, 4097, 9000]))
        elif kind == SYMLINK:
            about["link"] = raw(dice.choice([b"a", b"../b/./c//d", b"/etc/passwd", b"\xff", b"t" * 300]))
        elif kind in (tarfile.CHRTYPE, tarfile.BLKTYPE):
            about["device"] = dice.choice([(1, 3), (259, 300_000), (4095, 1_048_575)])
        if kind in (FILE, DIRECTORY):
            about["pax"].update(self.attributes(kind, about["mode"]))
        return about

    def attributes(self, kind, mode):
        """Some extended attributes; only files and directories can have the user's."""
        # None is empty: umoci's reader takes such a record for none.
        may = {"user.note": "n" * self.dice.choice([1, 3000]), "user.raw": raw(b"\x80\x00\xff"), "trusted.t": "x",
               "system.posix_acl_access": access_list(mode)}
        if kind == FILE:
            may["security.capability"] = archives.MAY_BIND["SCHILY.xattr.security.capability"]
        else:
            may["system.posix_acl_default"] = access_list(0o750)
        return {f"SCHILY.xattr.{name}": value for name, value in may.items() if self.dice.random() < 0.2}

    def make(self):
        folder = self.folder()
        path = (*folder, self.dice.choice(NAMES))
        if len(path) < 6 and self.is_free(path):
            self.put(path, self.dice.choice(KINDS))

    def link(self):
        """One more name, for a file of this layer or a lower one."""
        files = [path for path, about in self.tree.items() if about["kind"] != DIRECTORY]
        path = (*self.folder(), self.dice.choice(NAMES))
        if not files or not self.is_free(path):
            return
        target = self.dice.choice(files)
        if target[:len(path)] == path:
            return
        about = self.tree[target]
        self.forget(path)
        self.tree[path] = about
        # The target stays until the layer ends.
        self.done |= {path, target}
        self.emit(path, **{**about, "kind": tarfile.LNKTYPE, "link": raw(b"/".join(target)), "data": b""})

    def hide(self):
        """A whiteout; what it hides may come again, in this layer too."""
        paths = [path for path in self.tree if path in self.lower and len(path) > 1 and len(path[-1]) < 250 and self.is_free(path)]
        if paths:
            path = self.dice.choice(paths)
            self.forget(path)
            self.emit((*path[:-1], b".wh." + path[-1]))

    def hide_below(self):
        """An opaque directory, with metadata of its own."""
        paths = [path for path, about in self.tree.items() if path in self.lower and len(path) > 1
                 and about["kind"] == DIRECTORY and self.is_free(path)]
        if paths:
            path = self.dice.choice(paths)
            for each in self.below(path):
                del self.tree[each]
            self.put(path, DIRECTORY)
            self.emit((*path, b".wh..wh..opq"))


def layers(seed, count):
    dice = random.Random(seed)
    stacks = [Stack(dice, b"s%d" % number) for number in range(count)]
    return [archives.layer(*[each for stack in stacks for each in stack.layer()]) for _ in range(LAYERS)]


def main(seed, count, out, folder=None):
    made = layers(int(seed), int(count))
    if out != "--layers":
        return archives.write_image(out, [archives.busybox_layer(), *made])
    for number, each in enumerate(made):
        Path(folder, f"{number}.tar").write_bytes(each)


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    main(*sys.argv[1:])
