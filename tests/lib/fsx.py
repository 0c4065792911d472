"""usage: fsx.py file PATH SEED STEPS | tree DIRECTORY SEED STEPS

file: a file is written, read, cut, mapped, punched and copied within at random, and compared with what it should be.
tree: files of all kinds are made, renamed, linked, written and removed at random below DIRECTORY.
The same seed does the same.
"""
import ctypes
import mmap
import os
import random
import sys

SIZE = 256 << 10
PAGE = mmap.PAGESIZE
libc = ctypes.CDLL(None, use_errno=True)


def fallocate(fd, how, start, length):
    if libc.fallocate(fd, how, ctypes.c_long(start), ctypes.c_long(length)) < 0:
        raise OSError(ctypes.get_errno(), "fallocate")


class File:
    def __init__(self, path, chance):
        self.path, self.chance, self.model = path, chance, bytearray()
        self.fd = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_RDWR)

    def span(self, end=SIZE):
        start = self.chance.randrange(max(end, 1))
        return start, self.chance.randint(1, min(1 << self.chance.randrange(1, 17), max(end - start, 1)))

    def grow(self, end):
        self.model.extend(bytes(max(0, end - len(self.model))))

    def write(self):
        start, length = self.span()
        data = self.chance.randbytes(length)
        assert os.pwrite(self.fd, data, start) == length
        self.grow(start + length)
        self.model[start:start + length] = data

    def append(self):
        if len(self.model) < SIZE:
            fd = os.open(self.path, os.O_WRONLY | os.O_APPEND)
            os.write(fd, b"appended")
            os.close(fd)
            self.model += b"appended"

    def cut(self):
        length = self.chance.randrange(SIZE)
        os.ftruncate(self.fd, length)
        self.grow(length)
        del self.model[length:]

    def map(self):
        if len(self.model) > PAGE:
            start, length = self.span(len(self.model))
            length = min(length, len(self.model) - start)
            data = self.chance.randbytes(length)
            with mmap.mmap(self.fd, len(self.model)) as shared:
                assert shared[:] == self.model, "what is mapped"
                shared[start:start + length] = data
            self.model[start:start + length] = data

    def punch(self):
        start, length = self.span()
        fallocate(self.fd, 3, start, length)
        end = min(start + length, len(self.model))
        self.model[start:end] = bytes(max(0, end - start))

    def zero(self):
        start, length = self.span()
        fallocate(self.fd, 16, start, length)
        self.grow(start + length)
        self.model[start:start + length] = bytes(length)

    def copy(self):
        if len(self.model) > 2 * PAGE:
            half = len(self.model) // 2
            length = self.chance.randint(1, half)
            done = os.copy_file_range(self.fd, self.fd, length, 0, half)
            self.model[half:half + done] = self.model[:done]

    def sync(self):
        os.fsync(self.fd)

    def open(self):
        os.close(self.fd)
        self.fd = os.open(self.path, os.O_RDWR)

    def read(self):
        start, length = self.span()
        assert os.pread(self.fd, length, start) == self.model[start:start + length], f"{length} bytes at {start}"
        assert os.fstat(self.fd).st_size == len(self.model), "size"


def file(path, chance, steps):
    it = File(path, chance)
    kinds = [it.write, it.write, it.append, it.cut, it.map, it.punch, it.zero, it.copy, it.sync, it.open, it.read, it.read]
    for step in range(steps):
        kind = chance.choice(kinds)
        try:
            kind()
        except AssertionError as error:
            raise SystemExit(f"step {step}, {kind.__name__}: {error}")
    it.open()
    if os.pread(it.fd, SIZE * 2, 0) != it.model:
        raise SystemExit("the whole file is not what it should be")


def tree(top, chance, steps):
    os.chdir(top)
    names = [f"{a}{b}" for a in ("", "d1/", "d2/", "d1/e/") for b in ("d1", "d2", "e", "f", "g", "h")]
    one = lambda: chance.choice(names)  # noqa: E731
    kinds = [lambda n: os.mkdir(n), lambda n: os.rmdir(n), lambda n: os.unlink(n), lambda n: os.rename(n, one()),
             lambda n: os.link(n, one(), follow_symlinks=False), lambda n: os.symlink(chance.choice(["f", "../g", "/none"]), n),
             lambda n: os.chmod(n, chance.randrange(0o200, 0o1000)), lambda n: os.setxattr(n, "user.x", chance.randbytes(9)),
             lambda n: os.truncate(n, chance.randrange(20000)), lambda n: os.utime(n, ns=(1, chance.randrange(10**18))),
             lambda n: open(n, "wb").write(chance.randbytes(chance.randrange(9000))), lambda n: os.mkfifo(n)]
    for _ in range(steps):
        name = one()
        # A FIFO would wait for its other end.
        if os.path.exists(name) and not (os.path.isfile(name) or os.path.isdir(name)):
            os.unlink(name)
        try:
            chance.choice(kinds)(name)
        except OSError:
            pass


what, where, seed, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
{"file": file, "tree": tree}[what](where, random.Random(seed), count)
print("all is right")
