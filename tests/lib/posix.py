"""usage: posix.py DIRECTORY: what programs may rely on in a directory, each point on a line of its own when it fails."""
import ctypes
import fcntl
import mmap
import os
import sys

libc = ctypes.CDLL(None, use_errno=True)
PUNCH, KEEP, ZERO = 2, 1, 16
NOREPLACE, EXCHANGE = 1, 2
failed = 0


def check(what, good):
    global failed
    if not good:
        failed += 1
        print("wrong:", what)


def call(name, *arguments):
    if getattr(libc, name)(*arguments) < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")


def fallocate(fd, how, start, length):
    call("fallocate", fd, how, ctypes.c_long(start), ctypes.c_long(length))


def rename(one, other, how):
    call("renameat2", -100, one.encode(), -100, other.encode(), how)


def raises(error, function, *arguments):
    try:
        function(*arguments)
    except OSError as found:
        return isinstance(found, error)
    return False


def put(name, text=b"x"):
    with open(name, "wb") as file:
        file.write(text)


def get(name):
    with open(name, "rb") as file:
        return file.read()


os.chdir(sys.argv[1])

# Names.
put("a", b"a"); put("b", b"b"); os.mkdir("d"); os.mkdir("d/full"); put("d/full/f")
os.rename("a", "b"); check("a rename replaces", get("b") == b"a" and not os.path.exists("a"))
put("a", b"2"); rename("a", "b", EXCHANGE); check("an exchange", get("a") == b"a" and get("b") == b"2")
check("a rename that replaces nothing", raises(FileExistsError, rename, "a", "b", NOREPLACE))
os.rename("a", "d/a"); check("a rename into a directory", get("d/a") == b"a")
check("a directory over a full one", raises(OSError, os.rename, "d", "d/full") and raises(OSError, os.rmdir, "d"))
check("a file over a directory", raises(IsADirectoryError, os.rename, "b", "d"))
check("a directory over a file", raises(NotADirectoryError, os.rename, "d", "b"))
os.link("b", "c"); os.rename("b", "c"); check("a rename onto another name of itself keeps both", os.path.exists("b"))
check("O_EXCL", raises(FileExistsError, os.open, "b", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
check("a name of 256 bytes", raises(OSError, put, "n" * 256)); put("n" * 255); os.unlink("n" * 255)
os.symlink("nowhere", "dangling"); check("a link that leads nowhere", raises(FileNotFoundError, get, "dangling"))
os.symlink("round", "round"); check("a link to itself", raises(OSError, get, "round"))

# A file that is open outlives its name.
fd = os.open("gone", os.O_CREAT | os.O_RDWR); os.write(fd, b"before"); os.unlink("gone")
os.write(fd, b" after"); os.fsync(fd)
check("an unlinked file", os.pread(fd, 20, 0) == b"before after" and os.fstat(fd).st_nlink == 0)
os.ftruncate(fd, 3); os.fchmod(fd, 0o600); check("an unlinked file is cut", os.fstat(fd).st_size == 3); os.close(fd)
put("old", b"old"); fd = os.open("old", os.O_RDONLY); put("new", b"new"); os.rename("new", "old")
check("a replaced file", os.read(fd, 9) == b"old" and os.fstat(fd).st_nlink == 0); os.close(fd)

# Appending, by two descriptions.
one, two = (os.open("log", os.O_CREAT | os.O_WRONLY | os.O_APPEND) for _ in range(2))
for n in range(100):
    os.write((one, two)[n % 2], b"%3d\n" % n)
check("O_APPEND", get("log") == b"".join(b"%3d\n" % n for n in range(100)))
os.lseek(one, 0, os.SEEK_SET); os.write(one, b"end\n"); check("O_APPEND after a seek", get("log").endswith(b"end\n"))
os.close(one); os.close(two)

# Memory.
put("map", bytes(3 * 4096)); fd = os.open("map", os.O_RDWR)
with mmap.mmap(fd, 3 * 4096) as shared, mmap.mmap(fd, 3 * 4096, access=mmap.ACCESS_COPY) as private:
    shared[4096:4101] = b"share"; private[0:7] = b"private"
    check("a read sees shared memory", os.pread(fd, 5, 4096) == b"share")
    os.pwrite(fd, b"written", 8192); check("shared memory sees a write", shared[8192:8199] == b"written")
    check("private memory is private", os.pread(fd, 7, 0) == bytes(7)); shared.flush()
os.close(fd); check("what was mapped is in the file", get("map")[4096:4101] == b"share")

# Space.
fd = os.open("space", os.O_CREAT | os.O_RDWR)
fallocate(fd, 0, 0, 1 << 20); check("fallocate makes a file longer", os.fstat(fd).st_size == 1 << 20)
fallocate(fd, KEEP, 1 << 20, 1 << 20); check("fallocate keeps the size", os.fstat(fd).st_size == 1 << 20)
check("it has its space", os.fstat(fd).st_blocks >= (1 << 20) // 512)
os.pwrite(fd, b"x" * (1 << 20), 0); fallocate(fd, PUNCH | KEEP, 4096, 8192)
check("a hole reads as zeros", os.pread(fd, 3 * 4096, 0) == b"x" * 4096 + bytes(8192))

if not os.environ.get("NO_ZERO"):
    fallocate(fd, ZERO, 0, 10); check("zeroed", os.pread(fd, 12, 0) == bytes(10) + b"xx")
os.close(fd)
fd = os.open("sparse", os.O_CREAT | os.O_RDWR); os.ftruncate(fd, 64 << 20); os.pwrite(fd, b"data", 32 << 20); os.fsync(fd)
check("SEEK_DATA", os.lseek(fd, 0, os.SEEK_DATA) == 32 << 20)
check("SEEK_HOLE", os.lseek(fd, 32 << 20, os.SEEK_HOLE) == (32 << 20) + 4096)
check("no data behind", raises(OSError, os.lseek, fd, 40 << 20, os.SEEK_DATA))
check("holes take no space", os.fstat(fd).st_blocks < 1000); os.close(fd)

# Times, modes, attributes.
os.utime("b", ns=(-5 * 10**9 - 7, 1_600_000_000_123_456_789))
about = os.stat("b"); check("times", (about.st_atime_ns, about.st_mtime_ns) == (-5 * 10**9 - 7, 1_600_000_000_123_456_789))
os.setxattr("b", "user.a", b"\0v"); os.setxattr("b", "user.empty", b"")
check("attributes", os.getxattr("b", "user.a") == b"\0v" and sorted(os.listxattr("b"))[-2:] == ["user.a", "user.empty"])
check("an attribute that is there", raises(FileExistsError, os.setxattr, "b", "user.a", b"", os.XATTR_CREATE))
os.removexattr("b", "user.a"); check("an attribute that is gone", raises(OSError, os.getxattr, "b", "user.a"))
os.mkfifo("fifo"); check("a FIFO", os.path.exists("fifo"))
if os.geteuid() == 0:
    os.chown("b", 12345, 54321); os.chmod("b", 0o6755)
    check("set-id bits", os.stat("b").st_mode & 0o7777 == 0o6755); os.chown("b", 1, 1)
    check("a change of owner takes them away", os.stat("b").st_mode & 0o6000 == 0)
    os.mkdir("group"); os.chown("group", 0, 77); os.chmod("group", 0o2775); put("group/f")
    check("a directory's group is its files'", os.stat("group/f").st_gid == 77)

# A directory that is changed while it is read: all that stays is told once.
os.mkdir("many")
for n in range(500):
    put(f"many/stay{n}", b"")
    put(f"many/go{n}", b"")
seen = {}
with os.scandir("many") as entries:
    for count, entry in enumerate(entries):
        seen[entry.name] = seen.get(entry.name, 0) + 1
        if count < 500:
            os.path.exists(f"many/go{count}") and os.unlink(f"many/go{count}")
            put(f"many/come{count}", b"")
check("each name that stays, once", all(seen.get(f"stay{n}") == 1 for n in range(500)))
check("no name twice", max(seen.values()) == 1)
for how, end in ((fcntl.LOCK_EX, fcntl.LOCK_UN),):
    with open("b") as file:
        fcntl.flock(file, how); fcntl.flock(file, end)
print("all is right" if not failed else f"{failed} are wrong")
sys.exit(failed != 0)
